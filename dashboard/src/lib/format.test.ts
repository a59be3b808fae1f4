import { describe, expect, it } from "vitest";

import { bytes, duration, layers, parameters, percent, rate, shortName } from "./format";

describe("amounts", () => {
  it("uses powers of 1000 and as many digits as mean something", () => {
    expect([0, 999, 1000, 491_400_032, 999_600, 1_234_567_890, 12_345_678_900].map(bytes)).toEqual([
      "0 B",
      "999 B",
      "1 kB",
      "491 MB",
      "1 MB",
      "1.2 GB",
      "12 GB",
    ]);
  });

  it("shows times as people say them", () => {
    expect([0, 4.2, 40, 999.4, 2500, 12_000, 59_400, 59_600, 7_500_000, 200_000_000].map(duration)).toEqual([
      "0 ms",
      "4.2 ms",
      "40 ms",
      "999 ms",
      "2.5 s",
      "12 s",
      "59 s",
      "1 min",
      "2 h 5 min",
      "2 days",
    ]);
  });

  it("rounds speeds and sizes", () => {
    expect([8.14, 9.96, 120.4].map(rate)).toEqual(["8.1", "10", "120"]);
    expect([134_000, 494_032_768, 1_543_714_304].map(parameters)).toEqual(["134 k", "494 M", "1.5 B"]);
  });

  it("keeps shares between nothing and all", () => {
    expect([percent(1, 3), percent(5, 3), percent(1, 0), percent(-1, 2)]).toEqual([33, 100, 0, 0]);
  });

  it("counts layers from one", () => {
    expect([layers([0, 8]), layers([8, 9])]).toEqual(["1–8", "9"]);
  });

  it("shortens names to their last part", () => {
    expect(["demo", "Qwen/Qwen2.5-0.5B-Instruct-GGUF", "/models/a.gguf"].map(shortName)).toEqual([
      "demo",
      "Qwen2.5-0.5B-Instruct-GGUF",
      "a.gguf",
    ]);
  });
});
