import { describe, expect, it } from "vitest";

import type { Device, Instance } from "../../lib/types";
import { condition, holdings, isPhone, used } from "./condition";
import type { Feeling } from "./types";

const device: Device = {
  id: "a",
  name: "kitchen",
  is_self: false,
  liveness: "alive",
  addrs: [],
  rtt_ms: null,
  vitals: null,
  profile: null,
  models: [],
  memory_bytes: 4_000,
  software: "",
  isa: "neon",
  device: "",
  links: [],
  stages: [],
  draining: null,
};
const feeling: Feeling = {
  id: "a",
  load_percent: 3,
  free_bytes: 1_000,
  memory_bytes: 4_000,
  temperature_c: 35,
  battery_percent: 80,
  is_charging: false,
  n_requests: 0,
  rtt_ms: null,
  traffic: null,
};
const instance: Instance = {
  id: "1f",
  model: "demo",
  state: "ready",
  why: null,
  progress: null,
  n_requests: 0,
  n_waiting: 0,
  predicted_tokens_per_s: null,
  measured_tokens_per_s: null,
  suggestion: null,
  is_automatic: false,
  n_ctx: 0,
  n_layer: 8,
  epoch: 1,
  placement: [{ node: "a", layers: [0, 4] }, { node: "b", layers: [4, 8] }],
};

describe("how a device is", () => {
  const kind = (rest: Partial<Device>, feels: Partial<Feeling> = {}, runs: Instance[] = [instance]) =>
    condition({ ...device, ...rest }, { ...feeling, ...feels }, runs).kind;

  it("is told by the worst that is known", () => {
    expect(kind({})).toBe("well");
    expect(kind({}, { battery_percent: 12 })).toBe("low");
    expect(kind({}, { battery_percent: 12, is_charging: true })).toBe("well");
    expect(kind({}, { battery_percent: 12, temperature_c: 84 })).toBe("hot");
    expect(kind({}, { temperature_c: 84 }, [{ ...instance, state: "healing" }])).toBe("healing");
    expect(kind({ draining: "hot" }, {}, [{ ...instance, state: "healing" }])).toBe("leaving");
    expect(kind({ draining: "hot", liveness: "suspect" })).toBe("quiet");
    expect(kind({ liveness: "dead" })).toBe("lost");
  });

  it("says so when what computes a part keeps dying", () => {
    const stage = (state: "ready" | "given up") => ({
      instance: "1f",
      epoch: 1,
      layers: [0, 4] as [number, number],
      runner: { pid: null, state, n_restarts: 5, why: null },
    });
    expect(kind({ stages: [stage("ready")] })).toBe("well");
    expect(kind({ stages: [stage("given up")] })).toBe("stuck");
  });

  it("does without what a device does not say", () => {
    expect(condition(device, undefined, []).kind).toBe("well");
    expect(used(device, undefined)).toBeNull();
    expect(used(device, { ...feeling, free_bytes: null })).toBeNull();
  });

  it("has a sign besides the colour for all but the well", () => {
    expect(condition(device, feeling, []).icon).toBeNull();
    expect(condition({ ...device, draining: "a cause of tomorrow" }, feeling, [])).toMatchObject({ text: "a cause of tomorrow" });
    expect(condition({ ...device, liveness: "suspect" }, feeling, []).icon).not.toBeNull();
  });
});

it("counts what is in use of what is given", () => {
  expect(used(device, feeling)).toEqual({ used: 3_000, all: 4_000 });
  expect(used(device, { ...feeling, free_bytes: 9_000 })).toEqual({ used: 0, all: 4_000 });
});

it("knows what a device holds", () => {
  expect(holdings(device, [instance])).toEqual([{ key: "demo 0-4", model: "demo", layers: [0, 4], nLayer: 8, nCopies: 1 }]);
  expect(holdings(device, [instance, { ...instance, id: "2f" }]).map((it) => it.nCopies)).toEqual([2]);
  expect(holdings({ ...device, id: "c" }, [instance])).toEqual([]);
});

it("tells phones from computers", () => {
  expect(isPhone(device)).toBe(true);
  expect(isPhone({ ...device, isa: "avx512-vnni" })).toBe(false);
});
