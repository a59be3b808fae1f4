import { expect, test } from "vitest";

import type { Step, Trace } from "./types";
import { barsOf, lengthOf, partsOf, sum, ticks } from "./waterfall";

function step(sent: number, more: Partial<Step> = {}): Step {
  return {
    end: 1,
    n_tokens: 1,
    has_token: true,
    sent_ms: sent,
    took_ms: 36,
    hops_ms: 6,
    stages: [
      { queued_ms: 0, compute_ms: 10, n_rows: 1 },
      { queued_ms: 5, compute_ms: 15, n_rows: 1 },
    ],
    ...more,
  };
}

const trace: Trace = {
  id: 1,
  model: "m",
  instance: "1",
  driver: "a",
  stages: ["a", "b"],
  received_unix_ms: 0,
  prepared_ms: 2,
  started_ms: 10,
  first_token_ms: 46,
  ended_ms: 90,
  outcome: "stop",
  n_prompt: 9,
  n_cached: 0,
  n_generated: 2,
  n_steps: 2,
  steps: [step(10, { n_tokens: 9 }), step(50)],
};

test("lays a step's stages out within its round trip, with the network's time shared out evenly", () => {
  const own = partsOf(trace).filter((it) => it.startMs >= 50);
  expect(own.map((it) => [it.kind, it.row, it.startMs, it.tookMs])).toEqual([
    ["hop", 0, 50, 2],
    ["compute", 1, 52, 10],
    ["hop", 0, 62, 2],
    ["queue", 2, 64, 5],
    ["compute", 2, 69, 15],
    ["hop", 0, 84, 2],
  ]);
});

test("shows the preparation and the wait before the first step", () => {
  expect(partsOf(trace).slice(0, 2)).toEqual([
    { kind: "prepare", row: 0, startMs: 0, tookMs: 2, isPrompt: false },
    { kind: "wait", row: 0, startMs: 2, tookMs: 8, isPrompt: false },
  ]);
});

test("tells reading the question from answering", () => {
  const computing = partsOf(trace).filter((it) => it.kind === "compute");
  expect(computing.map((it) => it.isPrompt)).toEqual([true, true, false, false]);
});

test("cuts what reaches over the edge and leaves out what is beyond it", () => {
  const bars = barsOf([{ kind: "compute", row: 1, startMs: 0, tookMs: 10, isPrompt: false }], 5, 15);
  expect(bars).toHaveLength(1);
  expect([bars[0]?.left, bars[0]?.width]).toEqual([0, 50]);
  expect(barsOf(partsOf(trace), 200, 300)).toEqual([]);
  expect(barsOf(partsOf(trace), 5, 5)).toEqual([]);
});

test("draws thousands of steps as few bars, and loses no time by it", () => {
  const steps = Array.from({ length: 5000 }, (_, i) => step(i * 36));
  const parts = partsOf({ ...trace, steps, prepared_ms: 0, started_ms: 0 }).filter((it) => it.kind === "compute" && it.row === 2);
  const bars = barsOf(parts, 0, 5000 * 36);
  expect(bars.length).toBeLessThan(1000);
  expect(bars.reduce((ms, it) => ms + it.tookMs, 0)).toBeCloseTo(5000 * 15);
});

test("is as long as the request, or as what is known of one under way", () => {
  expect(lengthOf(trace)).toBe(90);
  expect(lengthOf({ ...trace, ended_ms: null })).toBe(86);
  expect(lengthOf({ ...trace, ended_ms: null, steps: [] })).toBe(10);
});

test("has round times on its axis", () => {
  expect(ticks(90, 5)).toEqual([0, 20, 40, 60, 80]);
  expect(ticks(0)).toEqual([0]);
  expect(ticks(Number.NaN)).toEqual([0]);
});

test("adds up where the time went", () => {
  const all = sum(trace);
  expect(all.stages).toEqual([
    { computeMs: 20, queuedMs: 0 },
    { computeMs: 30, queuedMs: 10 },
  ]);
  expect([all.prepareMs, all.waitMs, all.hopsMs, all.promptMs, all.otherMs, all.totalMs]).toEqual([2, 8, 12, 36, 8, 90]);
});
