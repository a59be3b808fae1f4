import { expect, test } from "vitest";

import { byDay, filtered, gist, grown, lines, times } from "./past";
import type { History, Level, LogEntry } from "./types";

function entry(seq: number, level: Level = "info", node: string | null = null, at = seq * 1000): LogEntry {
  return { seq, at_ms: at, level, kind: "node_joined", text: `event ${seq}`, node, instance: null, model: null };
}
const event = (began: number, ...seqs: number[]) => ({ began_ms: began, newest: 9, oldest: 1, entries: seqs.map((it) => entry(it)) });
const seqs = (log: { entries: LogEntry[] }) => log.entries.map((it) => it.seq);

test("adds what is new and what was before, each once", () => {
  let log = grown({ began: 1, entries: [] }, event(1, 4, 5));
  log = grown(log, event(1, 5, 6));
  expect(seqs(log)).toEqual([4, 5, 6]);
  expect(seqs(grown(log, event(1, 1, 2, 3, 4, 5, 6)))).toEqual([1, 2, 3, 4, 5, 6]);
});

test("forgets what a node said before its restart", () => {
  expect(seqs(grown({ began: 1, entries: [entry(7)] }, event(2, 1)))).toEqual([1]);
});

test("shows the newest first, from a level on, of one device", () => {
  const all = [entry(1, "error", "a"), entry(2, "info", "a"), entry(3, "warning", "b")];
  expect(filtered(all, "info", "").map((it) => it.seq)).toEqual([3, 2, 1]);
  expect(filtered(all, "warning", "").map((it) => it.seq)).toEqual([3, 1]);
  expect(filtered(all, "info", "a").map((it) => it.seq)).toEqual([2, 1]);
});

test("puts each day under its name", () => {
  const day = 86_400_000;
  expect(byDay([entry(3, "info", null, 3 * day), entry(2, "info", null, day), entry(1, "info", null, day)]).map((it) => it.entries.length)).toEqual([1, 2]);
});

const history: History = {
  interval_s: 5,
  end_ms: 100_000,
  n: 3,
  nodes: [
    { id: "a", name: "kitchen", temperature_c: [30, null, 32], battery_percent: [null, null, null], is_charging: [], load_percent: [1, 2, 3], free_mib: [] },
  ],
  own: { decode_per_s: [8, 0, 8], prefill_per_s: [0, 0, 0], n_requests: [1, 0, 1] },
};

test("knows when each sample was taken", () => {
  expect(times(history)).toEqual([90, 95, 100]);
});

test("has no line for a device that never said anything", () => {
  const speed = { answer: "Answers", question: "Questions" };
  expect(lines(history, "battery", speed)).toEqual([]);
  expect(lines(history, "temperature", speed).map((it) => it.device)).toEqual(["a"]);
  expect(lines(history, "speed", speed).map((it) => it.name)).toEqual(["Answers"]);
  expect(lines(history, "reading", speed).map((it) => it.name)).toEqual(["Questions"]);
});

test("tells the latest, least, most and mean of what is known", () => {
  expect(gist([30, null, 32, null])).toEqual({ latest: 32, least: 30, most: 32, mean: 31 });
  expect(gist([null])).toEqual({ latest: null, least: null, most: null, mean: null });
});
