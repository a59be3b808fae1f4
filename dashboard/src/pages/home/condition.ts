/** How a device is, in one word for everybody: the worst that is known of it. */
import type { Device, Instance } from "../../lib/types";
import type { IconName } from "../../ui/icons";
import { home } from "../../words/home";
import type { Feeling } from "./types";

export type Kind = "well" | "lost" | "leaving" | "quiet" | "stuck" | "healing" | "hot" | "low";

export interface Condition {
  kind: Kind;
  /** What it says beside the device. */
  text: string;
  tone: "good" | "neutral" | "accent" | "warn" | "bad";
  /** A sign that is not a colour; none for a device that is well. */
  icon: IconName | null;
}

/** From here on a phone is too hot to hold, and its processor slows itself down. */
const HOT_C = 80;
/** From here on, unplugged, its owner should know. */
const LOW_PERCENT = 15;

/** Tells how a device is. */
export function condition(device: Device, feeling: Feeling | undefined, instances: Instance[]): Condition {
  if (device.liveness === "dead") return { kind: "lost", text: home.states.dead, tone: "bad", icon: "close" };
  if (device.liveness === "suspect") return { kind: "quiet", text: home.states.suspect, tone: "warn", icon: "more" };
  if (device.draining !== null) {
    const icon = device.draining === "hot" ? "heat" : device.draining === "low_battery" ? "battery" : "upload";
    return { kind: "leaving", text: home.draining[device.draining] ?? device.draining, tone: "warn", icon };
  }
  const runner = device.stages.map((it) => it.runner).find((it) => it?.state === "restarting" || it?.state === "given up");
  if (runner !== undefined) {
    return { kind: "stuck", text: home.runners[runner.state], tone: runner.state === "given up" ? "bad" : "warn", icon: "warning" };
  }
  const isHealing = instances.some((it) => it.state === "healing" && it.placement.some((stage) => stage.node === device.id));
  if (isHealing) return { kind: "healing", text: home.takesOver, tone: "accent", icon: "refresh" };
  const heat = feeling?.temperature_c ?? null;
  if (heat !== null && heat >= HOT_C) return { kind: "hot", text: home.hot, tone: "warn", icon: "heat" };
  const charge = feeling?.battery_percent ?? null;
  if (charge !== null && charge <= LOW_PERCENT && feeling?.is_charging !== true) {
    return { kind: "low", text: home.low, tone: "warn", icon: "battery" };
  }
  return { kind: "well", text: home.states.alive, tone: "good", icon: null };
}

/** Whether to draw a phone. Nodes do not say it: computers are told by their kind of processor. */
export function isPhone(device: Device): boolean {
  return !/avx|sse/.test(device.isa);
}

/** What of a device's memory is in use, of all that it gives to models, in bytes; `null` where that is not known. */
export function used(device: Device, feeling: Feeling | undefined): { used: number; all: number } | null {
  const all = device.memory_bytes;
  const free = feeling?.free_bytes ?? null;
  if (all <= 0 || free === null) return null;
  return { used: Math.max(0, all - free), all };
}

/** A model of which a device holds layers. */
export interface Holding {
  /** Tells it from the others of the device. */
  key: string;
  model: string;
  layers: [number, number];
  nLayer: number;
  /** How often it holds just these. */
  nCopies: number;
}

/** What a device holds, by the models that run. */
export function holdings(device: Device, instances: Instance[]): Holding[] {
  const all = new Map<string, Holding>();
  for (const { model, n_layer: nLayer, placement } of instances) {
    for (const { node, layers } of placement) {
      if (node !== device.id) continue;
      const key = `${model} ${layers.join("-")}`;
      all.set(key, { key, model, layers, nLayer, nCopies: (all.get(key)?.nCopies ?? 0) + 1 });
    }
  }
  return [...all.values()];
}
