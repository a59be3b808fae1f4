import { describe, expect, test } from "vitest";

import type { Instance } from "../../lib/types";
import { downloadOf, entriesOf, hindrance, instanceOf, isOf, nameOf, shown, type Entry, type Filter } from "./shelf";
import type { Download, Offer, Stored } from "./types";

function offer(short: string, more: Partial<Offer> = {}): Offer {
  return {
    id: `owner/${short}-GGUF`,
    short,
    name: short,
    family: "family",
    architecture: "llama",
    format: "gguf",
    licence: "MIT",
    gated: false,
    tags: ["chat"],
    n_params: 1e9,
    n_layer: 24,
    n_ctx_train: 4096,
    quant: "Q4_K_M",
    n_bytes: 6e8,
    memory_bytes: 7e8,
    n_ctx: 4096,
    here: { status: "runs" },
    cluster: { status: "runs" },
    stored: null,
    ...more,
  };
}

function stored(name: string, more: Partial<Stored> = {}): Stored {
  return { name, place: "own", state: "whole", n_bytes: 5e8, n_bytes_on_disk: 5e8, dir: "/m", modified: 0, ...more };
}

const names = (entries: Entry[]) => entries.map((it) => it.name);
const filters = (...all: Filter[]) => new Set(all);

const BEST = [
  offer("large", { n_params: 7e9, n_bytes: 4e9, here: { status: "too_large", missing_bytes: 1 }, cluster: { status: "runs_on", n_nodes: 3 } }),
  offer("coder", { tags: ["code"] }),
  offer("qwen3", { here: { status: "unsupported", what: "x" }, cluster: { status: "unsupported", what: "x" } }),
  offer("tiny", { n_bytes: 1e8, n_params: 1e8, stored: "owner/tiny-GGUF:Q4_K_M" }),
];
const ALL = [...BEST, offer("coder", { tags: ["code"], quant: "Q8_0", n_bytes: 1e9 })];
const STORED = [stored("owner/tiny-GGUF:Q4_K_M"), stored("my-own.gguf"), stored("half", { state: "partial", n_bytes_held: 3 })];
const entries = entriesOf(BEST, ALL, STORED);

describe("the list", () => {
  test("holds the catalogue and what only lies on the disk, each once", () => {
    expect(names(entries)).toEqual(["large", "coder", "qwen3", "tiny", "my-own.gguf", "half"]);
    expect(entries[3]?.stored).toHaveLength(1);
  });

  test("has all quantisations of a model, the one that would be taken first", () => {
    expect(entries[1]?.variants.map((it) => it.quant)).toEqual(["Q4_K_M", "Q8_0"]);
  });

  test("shows what passes every filter", () => {
    expect(names(shown(entries, filters("here"), "", "name"))).toEqual(["coder", "my-own.gguf", "tiny"]);
    expect(names(shown(entries, filters("cluster", "chat"), "", "name"))).toEqual(["large", "tiny"]);
    expect(names(shown(entries, filters("disk"), "", "name"))).toEqual(["half", "my-own.gguf", "tiny"]);
    expect(names(shown(entries, filters("code"), "", "name"))).toEqual(["coder"]);
    expect(names(shown(entries, filters("small"), "", "name"))).not.toContain("large");
  });

  test("finds by every word, whatever its case and accents", () => {
    expect(names(shown(entries, filters(), "OWNER tíny", "name"))).toEqual(["tiny"]);
    expect(names(shown(entries, filters(), "q8_0", "name"))).toEqual(["coder"]);
    expect(shown(entries, filters(), "tiny coder", "name")).toEqual([]);
  });

  test("puts what runs here first and what never runs last", () => {
    expect(names(shown(entries, filters(), "", "fit"))).toEqual(["tiny", "my-own.gguf", "coder", "large", "half", "qwen3"]);
  });

  test("orders by size", () => {
    expect(names(shown(entries, filters(), "", "small"))[0]).toBe("tiny");
    expect(names(shown(entries, filters(), "", "large"))[0]).toBe("large");
  });
});

describe("a model", () => {
  const coder = entries[1] as Entry;
  const tiny = entries[3] as Entry;

  test("is asked for by its name on the disk, else by repository and quantisation", () => {
    expect(nameOf(tiny)).toBe("owner/tiny-GGUF:Q4_K_M");
    expect(nameOf(coder, coder.variants[1])).toBe("owner/coder-GGUF:Q8_0");
  });

  test("is known by each of its names and by no other's", () => {
    for (const name of ["coder", "owner/coder-GGUF", "owner/coder-GGUF:Q8_0", "OWNER/CODER-gguf:q4_k_m"]) expect(isOf(coder, name)).toBe(true);
    expect(isOf(coder, "owner/coder-GGUF:Q2_K")).toBe(false);
    expect(isOf(coder, "tiny")).toBe(false);
  });

  test("says what keeps it from running", () => {
    expect(hindrance(entries[2] as Entry)).toEqual({ status: "unsupported", what: "x" });
    expect(hindrance(entries[0] as Entry)).toBeNull();
  });

  test("has the instance that is ready before one that loads", () => {
    const loading = { id: "1", model: "coder", state: "loading" } as Instance;
    const ready = { id: "2", model: "owner/coder-GGUF:Q8_0", state: "ready" } as Instance;
    expect(instanceOf(coder, [loading, ready])?.id).toBe("2");
    expect(instanceOf(tiny, [loading, ready])).toBeUndefined();
  });

  test("has no download when that is over", () => {
    const download = { model: "owner/tiny-GGUF:Q4_K_M", state: "complete" } as Download;
    expect(downloadOf(tiny, [download])).toBeUndefined();
    expect(downloadOf(tiny, [{ ...download, state: "paused" }])?.state).toBe("paused");
  });
});
