import { expect, test } from "vitest";

import { done, fromPeers, inOrder, remainingMs } from "./progress";
import type { Download } from "./types";

const base: Download = {
  model: "m",
  state: "running",
  message: null,
  n_bytes: 250,
  n_total: 1000,
  bytes_per_s: 50,
  remaining_s: null,
  from_hub: 150,
  from_peers: 50,
  bad_peers: [],
};

test("is done only when every byte is there", () => {
  expect(done(base)).toBe(25);
  expect(done({ n_bytes: 999_999, n_total: 1_000_000 })).toBe(99);
  expect(done({ n_bytes: 10, n_total: 10 })).toBe(100);
  expect(done({ n_bytes: 0, n_total: 0 })).toBeNull();
});

test("takes the node's word for the time left, else the speed's", () => {
  expect(remainingMs({ ...base, remaining_s: 4 })).toBe(4000);
  expect(remainingMs(base)).toBe(15_000);
  expect(remainingMs({ ...base, bytes_per_s: 0 })).toBeNull();
  expect(remainingMs({ ...base, state: "paused", remaining_s: 4 })).toBeNull();
});

test("tells what came from other devices once something came", () => {
  expect(fromPeers(base)).toBe(25);
  expect(fromPeers({ ...base, from_hub: 0, from_peers: 0 })).toBeNull();
});

test("shows those under way first and none that is over", () => {
  const all = [
    { ...base, model: "f", state: "failed" as const },
    { ...base, model: "c", state: "complete" as const },
    { ...base, model: "p", state: "paused" as const },
    { ...base, model: "r" },
  ];
  expect(inOrder(all).map((it) => it.model)).toEqual(["r", "p", "f"]);
});
