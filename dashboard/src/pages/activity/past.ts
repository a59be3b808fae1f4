/** The past hour's numbers, made ready for charts and tables, and the event log. */
import type { History, Level, LogEntry, LogEvent, Samples } from "./types";

/** One line of a chart. `device` is an id, where the line is a device's. */
export interface Line {
  name: string;
  device: string | null;
  values: Samples;
}

export type Topic = "speed" | "reading" | "temperature" | "battery" | "load";
export const TOPICS: Topic[] = ["speed", "reading", "temperature", "battery", "load"];

/** The times of all samples, in seconds since 1970. */
export function times(history: History): number[] {
  const end = history.end_ms / 1000;
  return Array.from({ length: history.n }, (_, i) => end - (history.n - 1 - i) * history.interval_s);
}

/** The lines of a topic; devices that never said anything about it have none. */
export function lines(history: History, topic: Topic, speed: { answer: string; question: string }): Line[] {
  // Questions are read so much faster than answers are made that one scale would flatten these.
  if (topic === "speed") return [{ name: speed.answer, device: null, values: history.own.decode_per_s }];
  if (topic === "reading") return [{ name: speed.question, device: null, values: history.own.prefill_per_s }];
  const key = ({ temperature: "temperature_c", battery: "battery_percent", load: "load_percent" } as const)[topic];
  return history.nodes
    .map((node) => ({ name: node.name, device: node.id, values: node[key] }))
    .filter((line) => line.values.some((it) => it !== null));
}

export interface Gist {
  latest: number | null;
  least: number | null;
  most: number | null;
  mean: number | null;
}

/** What a table says instead of a picture. */
export function gist(values: Samples): Gist {
  const known = values.filter((it): it is number => it !== null);
  if (known.length === 0) return { latest: null, least: null, most: null, mean: null };
  return {
    latest: known.at(-1) ?? null,
    least: known.reduce((a, b) => Math.min(a, b)),
    most: known.reduce((a, b) => Math.max(a, b)),
    mean: known.reduce((a, b) => a + b, 0) / known.length,
  };
}

/** More is not kept in the page: the node has the rest. */
const KEPT = 1000;

/** What is known of the log after an event: a node that was restarted begins anew. Newest last, each once. */
export function grown(old: { began: number; entries: LogEntry[] }, event: LogEvent): { began: number; entries: LogEntry[] } {
  const before = old.began === event.began_ms ? old.entries : [];
  const newest = before.at(-1)?.seq ?? 0;
  const oldest = before[0]?.seq ?? Infinity;
  const earlier = event.entries.filter((it) => it.seq < oldest && it.seq < newest);
  const later = event.entries.filter((it) => it.seq > newest);
  return { began: event.began_ms, entries: [...earlier, ...before, ...later].slice(-KEPT) };
}

const RANK: Record<Level, number> = { info: 0, notice: 1, warning: 2, error: 3 };

/** Newest first; `from` is the least level, `device` an id or empty. */
export function filtered(entries: LogEntry[], from: Level, device: string): LogEntry[] {
  return entries.filter((it) => RANK[it.level] >= RANK[from] && (device === "" || it.node === device)).reverse();
}

/** Under a day's name stands what happened on it. */
export function byDay(entries: LogEntry[]): { day: string; atMs: number; entries: LogEntry[] }[] {
  const days: { day: string; atMs: number; entries: LogEntry[] }[] = [];
  for (const entry of entries) {
    const day = new Date(entry.at_ms).toDateString();
    const last = days.at(-1);
    if (last?.day === day) last.entries.push(entry);
    else days.push({ day, atMs: entry.at_ms, entries: [entry] });
  }
  return days;
}
