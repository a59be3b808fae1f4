/**
 * A request's time, laid out as a picture: one row for what the asked node does itself, one for each stage.
 *
 * Stages measure with their own clocks, and these are not compared: a step's stages are laid out within its round trip, with what the
 * network took shared out evenly before, between and after them.
 */
import type { Trace } from "./types";

export type PartKind = "prepare" | "wait" | "queue" | "compute" | "hop";

export interface Part {
  kind: PartKind;
  /** Row: 0 is the node that was asked, `i + 1` stage `i`. */
  row: number;
  startMs: number;
  tookMs: number;
  /** Reads the question rather than making a token. */
  isPrompt: boolean;
}

/** Everything that took time, in the order in which it began. */
export function partsOf(trace: Trace): Part[] {
  const parts: Part[] = [];
  const add = (kind: PartKind, row: number, startMs: number, tookMs: number, isPrompt = false) => {
    if (tookMs > 0) parts.push({ kind, row, startMs, tookMs, isPrompt });
  };
  add("prepare", 0, 0, trace.prepared_ms);
  add("wait", 0, trace.prepared_ms, trace.started_ms - trace.prepared_ms);
  for (const step of trace.steps) {
    const isPrompt = step.n_tokens > 1 || !step.has_token;
    const gap = Math.max(0, step.hops_ms) / (step.stages.length + 1);
    let at = step.sent_ms;
    for (const [i, stage] of step.stages.entries()) {
      add("hop", 0, at, gap, isPrompt);
      at += gap;
      add("queue", i + 1, at, stage.queued_ms, isPrompt);
      at += stage.queued_ms;
      add("compute", i + 1, at, stage.compute_ms, isPrompt);
      at += stage.compute_ms;
    }
    add("hop", 0, at, gap, isPrompt);
  }
  return parts;
}

/** How long the whole took: until its end, or the end of what is known of it. */
export function lengthOf(trace: Trace): number {
  const last = trace.steps.at(-1);
  return Math.max(trace.ended_ms ?? 0, trace.started_ms, last === undefined ? 0 : last.sent_ms + last.took_ms);
}

/** A part as a share of what is shown. */
export interface Bar extends Part {
  /** In percent; parts outside of what is shown are left out, those across its edge are cut. */
  left: number;
  width: number;
}

/** Narrower parts of one kind in one row, closer than this share of the picture, become one: nobody sees them apart. */
const MERGED = 0.0015;

/** Lays parts out between two times. */
export function barsOf(parts: Part[], fromMs: number, toMs: number): Bar[] {
  const span = toMs - fromMs;
  if (!(span > 0)) return [];
  const lasts = new Map<string, Bar>();
  const bars: Bar[] = [];
  for (const part of parts) {
    const start = Math.max(part.startMs, fromMs);
    const end = Math.min(part.startMs + part.tookMs, toMs);
    if (end <= start) continue;
    const key = `${part.row} ${part.kind} ${part.isPrompt}`;
    const last = lasts.get(key);
    const left = ((start - fromMs) / span) * 100;
    const right = ((end - fromMs) / span) * 100;
    if (last !== undefined && left - (last.left + last.width) < MERGED * 100 && right - left < 0.4) {
      last.width = right - last.left;
      last.tookMs += end - start;
      continue;
    }
    const bar = { ...part, startMs: start, tookMs: end - start, left, width: right - left };
    lasts.set(key, bar);
    bars.push(bar);
  }
  return bars;
}

/** Times for an axis: round ones, at most `most` of them, the first at 0. */
export function ticks(spanMs: number, most = 6): number[] {
  if (!(spanMs > 0)) return [0];
  const rough = spanMs / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((it) => it * power).find((it) => it >= rough) ?? 10 * power;
  const all: number[] = [];
  for (let at = 0; at <= spanMs * 1.0001; at += step) all.push(at);
  return all;
}

/** Where the time went, in milliseconds. */
export interface Sum {
  prepareMs: number;
  waitMs: number;
  promptMs: number;
  /** Each stage's computing and waiting, over all steps. */
  stages: { computeMs: number; queuedMs: number }[];
  hopsMs: number;
  /** Between steps: sampling, healing, and whatever nobody measured. */
  otherMs: number;
  totalMs: number;
}

export function sum(trace: Trace): Sum {
  const stages = trace.stages.map((_, i) => ({
    computeMs: trace.steps.reduce((ms, step) => ms + (step.stages[i]?.compute_ms ?? 0), 0),
    queuedMs: trace.steps.reduce((ms, step) => ms + (step.stages[i]?.queued_ms ?? 0), 0),
  }));
  const hopsMs = trace.steps.reduce((ms, step) => ms + Math.max(0, step.hops_ms), 0);
  const waitMs = Math.max(0, trace.started_ms - trace.prepared_ms);
  const totalMs = lengthOf(trace);
  const known = trace.prepared_ms + waitMs + hopsMs + stages.reduce((ms, it) => ms + it.computeMs + it.queuedMs, 0);
  return {
    prepareMs: trace.prepared_ms,
    waitMs,
    promptMs: trace.steps.filter((it) => it.n_tokens > 1 || !it.has_token).reduce((ms, it) => ms + it.took_ms, 0),
    stages,
    hopsMs,
    otherMs: Math.max(0, totalMs - known),
    totalMs,
  };
}
