import { describe, expect, it } from "vitest";

import type { Device, Instance } from "../../lib/types";
import { report, spoken } from "./sentence";

const NOTHING = { perSecond: 0, models: [] };

function device(name: string, rest: Partial<Device> = {}): Device {
  return {
    id: name,
    name,
    is_self: false,
    liveness: "alive",
    addrs: [],
    rtt_ms: null,
    vitals: null,
    profile: null,
    models: [],
    memory_bytes: 0,
    software: "",
    isa: "",
    device: "",
    links: [],
    stages: [],
    draining: null,
    ...rest,
  };
}

function instance(model: string, rest: Partial<Instance> = {}): Instance {
  return {
    id: model,
    model,
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
    n_layer: 0,
    epoch: 1,
    placement: [],
    ...rest,
  };
}

describe("the sentence on top", () => {
  const two = [device("kitchen"), device("old-pixel")];

  it("says what is ready and how fast", () => {
    const qwen = instance("Qwen/Qwen2.5-3B", { predicted_tokens_per_s: 8.14 });
    expect(report(two, [qwen], NOTHING)).toEqual({
      headline: "2 devices, Qwen2.5 3B ready, 8.1 tokens/s",
      detail: "Everything is as it should be.",
      tone: "good",
    });
  });

  it("takes what was measured for truer than what was predicted", () => {
    const qwen = instance("qwen", { predicted_tokens_per_s: 8, measured_tokens_per_s: 7 });
    expect(report(two, [qwen], NOTHING).headline).toContain("7.0 tokens/s");
  });

  it("says that an answer is being made", () => {
    expect(report(two, [instance("demo"), instance("qwen")], { perSecond: 120, models: ["demo"] }).headline).toBe(
      "2 devices, demo answers at 120 tokens/s",
    );
  });

  it("names each model once", () => {
    const copies = [instance("demo", { id: "1" }), instance("demo", { id: "2" }), instance("qwen")];
    expect(report(two, copies, NOTHING).headline).toBe("2 devices, demo and qwen ready");
  });

  it("puts trouble before what is well", () => {
    const [kitchen] = two as [Device];
    const lost = [kitchen, device("old-pixel", { liveness: "dead" })];
    const healing = report(lost, [instance("demo", { state: "healing" }), instance("qwen")], NOTHING);
    expect(healing).toEqual({
      headline: "demo lost a device: the others take over its part",
      detail: "old-pixel cannot be reached.",
      tone: "warn",
    });
    expect(report(lost, [instance("demo")], NOTHING)).toEqual({
      headline: "1 device, demo ready",
      detail: "old-pixel cannot be reached.",
      tone: "warn",
    });
  });

  it("tells silence from loss, and a device that is being emptied", () => {
    const [kitchen] = two as [Device];
    expect(report([kitchen, device("b", { liveness: "suspect" })], [], NOTHING).detail).toBe("Nothing heard from b for a moment.");
    expect(report([kitchen, device("b", { draining: "hot" })], [], NOTHING).detail).toBe("b gives its part of the models to the others.");
  });

  it("shows how far a model is", () => {
    const coming = instance("qwen", { state: "fetching", progress: [30, 120] });
    expect(report(two, [coming], NOTHING).headline).toBe("qwen is on its way: 25 %");
  });

  it("says why a model cannot run", () => {
    const failed = instance("qwen", { state: "failed", why: "no device has room" });
    expect(report(two, [failed], NOTHING)).toMatchObject({ headline: "qwen cannot run", detail: "no device has room", tone: "bad" });
  });

  it("has words for the beginning", () => {
    expect(report([], [], NOTHING).headline).toBe("Looking for your devices…");
    expect(report([device("a")], [], NOTHING).headline).toBe("One device, and nothing runs on it yet");
  });
});

it("calls models as people do", () => {
  const names = [
    ["Qwen/Qwen2.5-3B-Instruct-GGUF:Q4_K_M", "Qwen2.5 3B"],
    ["bartowski/Llama-3.2-1B-Instruct-GGUF", "Llama 3.2 1B"],
    ["google/gemma-3-1b-it", "gemma 3 1b"],
    ["/models/Phi-3.5-mini.Q4_K_M.gguf", "Phi 3.5 mini"],
    ["demo", "demo"],
    ["Italian-it", "Italian"],
    [":", ":"],
  ];
  for (const [name = "", said] of names) expect(spoken(name)).toBe(said);
});
