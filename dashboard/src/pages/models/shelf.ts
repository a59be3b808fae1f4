/** The list of models: what is in it, what a filter leaves of it, and in which order. */
import type { Instance } from "../../lib/types";
import type { Download, Fit, Offer, Stored } from "./types";

/** A model in the list: of the catalogue, with all its quantisations, or one that only lies on the disk. */
export interface Entry {
  /** Stable while the list is read again. */
  key: string;
  name: string;
  offer: Offer | null;
  /** Each quantisation, the one that would be taken first. */
  variants: Offer[];
  /** What of it is on this device's disk. */
  stored: Stored[];
}

export const FILTERS = ["here", "cluster", "disk", "chat", "code", "small"] as const;
export type Filter = (typeof FILTERS)[number];
export const SORTS = ["fit", "small", "large", "name"] as const;
export type Sort = (typeof SORTS)[number];

/** Up to here a model is small: it answers quickly on most phones. */
const SMALL_PARAMS = 2_000_000_000;
const SMALL_BYTES = 1_500_000_000;

export function runs(fit: Fit): boolean {
  return fit.status === "runs" || fit.status === "runs_on";
}

/** Makes the list of what the catalogue offers and what lies on the disk. */
export function entriesOf(best: Offer[], all: Offer[], stored: Stored[]): Entry[] {
  const isTaken = new Set<string>();
  const entries: Entry[] = best.map((offer) => {
    const others = all.filter((it) => it.id === offer.id && it.short === offer.short && it.quant !== offer.quant);
    const variants = [offer, ...others];
    const names = new Set(variants.map((it) => it.stored).filter((it) => it !== null));
    const held = stored.filter((it) => names.has(it.name));
    for (const it of held) isTaken.add(it.name);
    return { key: offer.short, name: offer.name, offer, variants, stored: held };
  });
  const further = stored.filter((it) => !isTaken.has(it.name));
  return [...entries, ...further.map((it) => ({ key: it.name, name: it.name, offer: null, variants: [], stored: [it] }))];
}

/** The name by which the node knows a model: as it lies on the disk, else the repository with the quantisation. */
export function nameOf(entry: Entry, variant: Offer | null = entry.offer): string {
  if (variant === null) return entry.name;
  if (variant.stored !== null) return variant.stored;
  return variant.quant === null ? variant.id : `${variant.id}:${variant.quant}`;
}

/** Whether a name that the node uses for an instance or a download means this model. */
export function isOf(entry: Entry, model: string): boolean {
  if (model === entry.key || model === entry.name || entry.stored.some((it) => it.name === model)) return true;
  return entry.variants.some((it) => {
    const named = [it.short, it.id, it.stored ?? it.id, it.quant === null ? it.id : `${it.id}:${it.quant}`];
    return named.some((name) => name.toLowerCase() === model.toLowerCase());
  });
}

export function isOnDisk(entry: Entry): boolean {
  return entry.stored.some((it) => it.state === "whole");
}

/** Why a model cannot run anywhere; `null` if it can. */
export function hindrance(entry: Entry): Exclude<Fit, { status: "runs" | "runs_on" }> | null {
  const fit = entry.offer?.cluster;
  return fit === undefined || fit.status === "runs" || fit.status === "runs_on" ? null : fit;
}

function passes(entry: Entry, filter: Filter): boolean {
  const { offer } = entry;
  switch (filter) {
    case "here":
      return offer === null ? isOnDisk(entry) : offer.here.status === "runs";
    case "cluster":
      return offer === null ? isOnDisk(entry) : runs(offer.cluster);
    case "disk":
      return entry.stored.length > 0;
    case "chat":
      return offer?.tags.some((tag) => tag === "chat" || tag === "reasoning") ?? false;
    case "code":
      return offer?.tags.includes("code") ?? false;
    case "small":
      return offer === null
        ? (entry.stored[0]?.n_bytes ?? Infinity) <= SMALL_BYTES
        : offer.n_params <= SMALL_PARAMS && offer.n_params > 0;
  }
}

/** Lower letters without accents, so that `Élan` is found by `elan`. */
function plain(text: string): string {
  return text
    .normalize("NFD")
    .replace(/\p{Diacritic}/gu, "")
    .toLowerCase();
}

function matches(entry: Entry, words: string[]): boolean {
  const { offer } = entry;
  const told = [entry.name, entry.key, offer?.id, offer?.licence, offer?.architecture, offer?.family, ...(offer?.tags ?? [])];
  const text = plain([...told, ...entry.variants.map((it) => it.quant)].join(" "));
  return words.every((word) => text.includes(word));
}

/** 0: here; 1: on several; 2: too large; 3: not at all. */
function reach(entry: Entry): number {
  if (entry.offer === null) return isOnDisk(entry) ? 0 : 2;
  if (entry.offer.here.status === "runs") return 0;
  if (runs(entry.offer.cluster)) return 1;
  return entry.offer.cluster.status === "too_large" ? 2 : 3;
}

function sizeOf(entry: Entry): number {
  return entry.offer === null ? (entry.stored[0]?.n_bytes ?? 0) : entry.offer.n_bytes || entry.offer.n_params / 2;
}

function order(a: Entry, b: Entry, by: Sort): number {
  const byName = a.name.localeCompare(b.name, "en", { numeric: true });
  switch (by) {
    case "fit":
      // Within what runs, the disk comes first; then the catalogue's own order holds.
      return reach(a) - reach(b) || Number(isOnDisk(b)) - Number(isOnDisk(a));
    case "small":
      return sizeOf(a) - sizeOf(b) || byName;
    case "large":
      return sizeOf(b) - sizeOf(a) || byName;
    case "name":
      return byName;
  }
}

/** What the reader wants to see. A model has to pass all filters and to hold all words. */
export function shown(entries: Entry[], filters: ReadonlySet<Filter>, search: string, by: Sort): Entry[] {
  const words = plain(search).split(/\s+/).filter(Boolean);
  return entries
    .filter((entry) => [...filters].every((filter) => passes(entry, filter)) && matches(entry, words))
    .sort((a, b) => order(a, b, by));
}

/** The instance of a model that is furthest. */
export function instanceOf(entry: Entry, instances: Instance[]): Instance | undefined {
  const own = instances.filter((it) => isOf(entry, it.model));
  return own.find((it) => it.state === "ready") ?? own[0];
}

/** Its download, unless that is over. */
export function downloadOf(entry: Entry, downloads: Download[]): Download | undefined {
  return downloads.find((it) => it.state !== "complete" && isOf(entry, it.model));
}
