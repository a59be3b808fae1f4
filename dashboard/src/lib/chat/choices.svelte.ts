/** The models that a chat may use: those that answer now, and those on a disk that the first message starts. */
import { api } from "../api";
import { live } from "../live.svelte";
import type { Instance } from "../types";

export interface Choice {
  model: string;
  /** Its instances' best state, or `stored` where it has none. */
  state: Instance["state"] | "stored";
  why: string | null;
  /** Devices that hold layers of it. */
  devices: string[];
  nCtx: number | null;
  nBytes: number | null;
}

interface Stored {
  name: string;
  state: "whole" | "partial" | "damaged";
  n_bytes: number;
}

/** Better states first. */
const ORDER: Choice["state"][] = ["ready", "healing", "loading", "fetching", "placing", "stored", "failed"];
const KEY = "shoal.chat.model";

class Choices {
  #stored: Stored[] = $state.raw([]);
  /** Whether the first look has come to an end. */
  isKnown = $state(false);
  #last = $state(remembered());

  readonly all: Choice[] = $derived.by(() => {
    const found = new Map<string, Choice>();
    for (const instance of live.instances) {
      const before = found.get(instance.model);
      if (before !== undefined && ORDER.indexOf(before.state) <= ORDER.indexOf(instance.state)) continue;
      found.set(instance.model, {
        model: instance.model,
        state: instance.state,
        why: instance.why,
        devices: [...new Set(instance.placement.map(({ node }) => node))],
        nCtx: instance.n_ctx,
        nBytes: this.#stored.find(({ name }) => name === instance.model)?.n_bytes ?? null,
      });
    }
    const onDisk = [...this.#stored.filter(({ state }) => state === "whole"), ...held()];
    for (const { name, n_bytes } of onDisk) {
      if (!found.has(name)) found.set(name, { model: name, state: "stored", why: null, devices: [], nCtx: null, nBytes: n_bytes });
    }
    return [...found.values()].sort((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state) || a.model.localeCompare(b.model));
  });

  /** What a new chat takes: the last choice if it is still there, else what is ready. */
  get usual(): string {
    if (this.all.some(({ model }) => model === this.#last)) return this.#last;
    // The model for trying things out answers nonsense: anything else is better.
    return (this.all.find(({ model, state }) => model !== "demo" && state !== "failed") ?? this.all[0])?.model ?? "";
  }

  of(model: string): Choice | undefined {
    return this.all.find((choice) => choice.model === model);
  }

  remember(model: string): void {
    this.#last = model;
    try {
      localStorage.setItem(KEY, model);
    } catch {
      // A browser that keeps nothing.
    }
  }

  /** Looks at the disk. */
  async look(): Promise<void> {
    try {
      this.#stored = (await api.get<{ models: Stored[] }>("models?status=downloaded")).models;
    } catch {
      // Models that answer are known all the same.
    }
    this.isKnown = true;
  }
}

/** What other devices hold whole: a request starts that as well. */
function held(): Stored[] {
  return live.devices.flatMap((device) =>
    device.models.filter(({ is_whole }) => is_whole).map(({ name }) => ({ name, state: "whole" as const, n_bytes: 0 })),
  );
}

function remembered(): string {
  try {
    return localStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export const choices = new Choices();
