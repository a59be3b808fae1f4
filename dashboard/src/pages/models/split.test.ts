import { expect, test } from "vitest";

import type { Candidate, Help, PlannedStage } from "../../lib/types";
import { contexts, fetchBytes, keyOf, slices, verdict } from "./split";
import { blank, wishOf } from "./wish";

function stage(node: string, layers: [number, number], memory = 50, fetch = 10): PlannedStage {
  return { node, name: node, layers, weight_bytes: 1, memory_bytes: memory, fetch_bytes: fetch, compute_ms: 1, hop_ms: 1 };
}

const candidate: Candidate = {
  tokens_per_s: 8,
  first_token_ms: 900,
  aggregate_tokens_per_s: 16,
  fetch_ms: 5,
  stages: [stage("a", [0, 6]), stage("b", [6, 8], 95)],
};

function help(...speeds: (number | null)[]): Help[] {
  return speeds.map((it, i) => ({ n_nodes: i + 1, tokens_per_s: it, first_token_ms: it, aggregate_tokens_per_s: it }));
}

test("divides the width by layers and fills it", () => {
  const [a, b] = slices(candidate, () => 100);
  expect([a?.left, a?.width, b?.left, b?.width]).toEqual([0, 75, 75, 25]);
});

test("tells which device gets tight, and says nothing where its room is unknown", () => {
  expect(slices(candidate, () => 100).map((it) => it.isTight)).toEqual([false, true]);
  expect(slices(candidate, () => null).map((it) => [it.memoryPercent, it.isTight])).toEqual([
    [null, false],
    [null, false],
  ]);
});

test("adds up what has to be fetched", () => {
  expect(fetchBytes(candidate)).toBe(20);
});

test("knows a way by its devices and layers", () => {
  expect(keyOf(candidate)).toBe("a:0-6,b:6-8");
});

test("says whether another device helps", () => {
  expect(verdict(help(8))).toEqual({ kind: "alone" });
  expect(verdict(help(null, null))).toEqual({ kind: "alone" });
  expect(verdict(help(null, 8, 7.9))).toEqual({ kind: "needed", nNodes: 2 });
  expect(verdict(help(8, 12, 11))).toEqual({ kind: "faster", nNodes: 2, factor: 1.5 });
  expect(verdict(help(8, 4))).toEqual({ kind: "slower", factor: 0.5 });
  expect(verdict(help(8, 8.1))).toEqual({ kind: "same" });
});

test("offers contexts up to what the model was trained for", () => {
  expect(contexts(4096)).toEqual([512, 1024, 2048, 4096]);
  expect(contexts(3000)).toEqual([512, 1024, 2048, 3000]);
  expect(contexts(0)).toEqual([]);
});

test("asks only for what was chosen", () => {
  expect(wishOf("m", blank())).toEqual({ model: "m" });
  expect(wishOf("m", { ...blank(), context: 2048, min: 3, max: 2, without: ["x"], replicas: 2, isForMany: true })).toEqual({
    model: "m",
    context: 2048,
    min_nodes: 3,
    max_nodes: 3,
    exclude: ["x"],
    replicas: 2,
    throughput: true,
  });
});
