/** What changes all the time: how devices feel, and what is being made. */
import { live } from "../../lib/live.svelte";
import type { Feeling, Made } from "./types";

/** Without news for so long nothing is being made; events come ten times a second. */
const STILL_MS = 1500;
/** The number of tokens per second on the page changes at most so often, so that it can be read. */
const CALM_MS = 700;

export class Pulse {
  feelings: Record<string, Feeling> = $state.raw({});
  /** Tokens per second of all models together, 0 while none are made. */
  perSecond = $state(0);
  /** The models that make them. */
  models: string[] = $state.raw([]);
  /** Devices that compute just now. */
  working: ReadonlySet<string> = $state.raw(new Set<string>());
  #changedAt = 0;
  #still: ReturnType<typeof setTimeout> | undefined;

  /** Begins to listen; what it returns ends that. */
  listen(): () => void {
    // What was made before the page was opened is over.
    let isNews = false;
    const ends = [
      live.on("vitals", ({ nodes }: { nodes: Feeling[] }) => {
        this.feelings = Object.fromEntries(nodes.map((it) => [it.id, it]));
      }),
      live.on("tokens", ({ instances }: { instances: Made[] }) => {
        if (isNews) this.#made(instances);
      }),
    ];
    isNews = true;
    return () => {
      clearTimeout(this.#still);
      for (const end of ends) end();
    };
  }

  #made(instances: Made[]): void {
    const working = new Set(instances.flatMap((it) => it.stages));
    if (working.size !== this.working.size || [...working].some((id) => !this.working.has(id))) this.working = working;
    const now = Date.now();
    if (this.perSecond === 0 || now - this.#changedAt > CALM_MS) {
      this.perSecond = instances.reduce((sum, it) => sum + it.tokens_per_s, 0);
      this.models = instances.map((it) => it.model);
      this.#changedAt = now;
    }
    clearTimeout(this.#still);
    this.#still = setTimeout(() => {
      this.perSecond = 0;
      this.working = new Set();
    }, STILL_MS);
  }
}
