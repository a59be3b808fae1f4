/** Numbers for pictures of a placement: how a model is divided, and what that takes of each device. */
import type { Candidate, Help, Layers } from "../../lib/types";

/** A device's part of a model, as shares of its width. */
export interface Slice {
  node: string;
  name: string;
  layers: Layers;
  /** In percent of the whole. */
  left: number;
  width: number;
  memoryBytes: number;
  fetchBytes: number;
  /** Of what the device can give, in percent; `null` where that is not known. */
  memoryPercent: number | null;
  isTight: boolean;
}

/** From here on a device has little left for anything else. */
const TIGHT_PERCENT = 85;

/** Divides a candidate by its layers; `roomOf` tells how many bytes a device can give. */
export function slices(candidate: Candidate, roomOf: (node: string) => number | null): Slice[] {
  const total = candidate.stages.reduce((sum, { layers: [start, end] }) => sum + (end - start), 0);
  let before = 0;
  return candidate.stages.map((stage) => {
    const n = stage.layers[1] - stage.layers[0];
    const room = roomOf(stage.node);
    const memoryPercent = room === null || room <= 0 ? null : (stage.memory_bytes / room) * 100;
    const slice: Slice = {
      node: stage.node,
      name: stage.name,
      layers: stage.layers,
      left: total > 0 ? (before / total) * 100 : 0,
      width: total > 0 ? (n / total) * 100 : 0,
      memoryBytes: stage.memory_bytes,
      fetchBytes: stage.fetch_bytes,
      memoryPercent,
      isTight: memoryPercent !== null && memoryPercent > TIGHT_PERCENT,
    };
    before += n;
    return slice;
  });
}

export function fetchBytes(candidate: Candidate): number {
  return candidate.stages.reduce((sum, stage) => sum + stage.fetch_bytes, 0);
}

/** Candidates with the same devices and layers are one. */
export function keyOf(candidate: Candidate): string {
  return candidate.stages.map((stage) => `${stage.node}:${stage.layers.join("-")}`).join(",");
}

/** What one more device does. */
export type Verdict =
  | { kind: "alone" }
  | { kind: "needed"; nNodes: number }
  | { kind: "faster"; nNodes: number; factor: number }
  | { kind: "slower"; factor: number }
  | { kind: "same" };

/** Less than so much is nothing that anybody notices. */
const NOTICED = 0.05;

/** Whether more devices help one conversation, by the planner's numbers: it compares one device, or the fewest, with more. */
export function verdict(each: Help[]): Verdict {
  const able = each.filter((it) => it.tokens_per_s !== null);
  const [least] = able;
  if (least === undefined || least.tokens_per_s === null || each.length < 2) return { kind: "alone" };
  let best = least;
  for (const it of able) if ((it.tokens_per_s ?? 0) > (best.tokens_per_s ?? 0)) best = it;
  const factor = (best.tokens_per_s ?? 0) / least.tokens_per_s;
  if (best !== least && factor > 1 + NOTICED) return { kind: "faster", nNodes: best.n_nodes, factor };
  if (least.n_nodes > 1) return { kind: "needed", nNodes: least.n_nodes };
  const next = able.find((it) => it.n_nodes === least.n_nodes + 1)?.tokens_per_s;
  if (next !== undefined && next !== null && next < least.tokens_per_s * (1 - NOTICED)) {
    return { kind: "slower", factor: next / least.tokens_per_s };
  }
  return { kind: "same" };
}

/** Contexts to choose from: powers of two up to what the model was trained for, and that. */
export function contexts(max: number): number[] {
  const all: number[] = [];
  for (let n = 512; n < max; n *= 2) all.push(n);
  return max > 0 ? [...all, max] : all;
}
