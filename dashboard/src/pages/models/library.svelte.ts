/** The models that the node knows and has, read anew when something about them changed, and what can be done with them. */
import { api, part } from "../../lib/api";
import { live } from "../../lib/live.svelte";
import type { Instance } from "../../lib/types";
import { Plans } from "./plans.svelte";
import { entriesOf, type Entry } from "./shelf";
import type { Disk, Download, Offer, Stored, Wish } from "./types";

/** The node is not asked more often, whatever happens. */
const PAUSE_MS = 5000;

export class Library {
  entries: Entry[] | null = $state.raw(null);
  stored: Stored[] = $state.raw([]);
  disk: Disk | null = $state.raw(null);
  error: unknown = $state.raw(null);
  downloads: Download[] = $state.raw([]);
  /** What each device's system has free, in bytes. */
  free: Record<string, number | null> = $state.raw({});
  readonly plans = new Plans();
  #readAt = -Infinity;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isReading = false;

  /** Reads soon: at once if the last time is long ago. */
  soon(): void {
    if (this.#timer !== undefined) return;
    const wait = Math.max(0, this.#readAt + PAUSE_MS - Date.now());
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      void this.read();
    }, wait);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  async read(): Promise<void> {
    if (this.#isReading) return;
    this.#isReading = true;
    this.#readAt = Date.now();
    try {
      const [best, all, stored, state] = await Promise.all([
        api.get<{ models: Offer[] }>("models"),
        api.get<{ models: Offer[] }>("models?quants=all"),
        api.get<{ models: Stored[] }>("models?status=downloaded"),
        api.get<{ disk: Disk | null }>("state"),
      ]);
      this.entries = entriesOf(best.models, all.models, stored.models);
      this.stored = stored.models;
      this.disk = state.disk;
      this.error = null;
    } catch (error) {
      this.error = error;
    }
    this.#isReading = false;
  }

  /** Whether some device has it whole, so that nobody has to ask the hub. */
  isHeld(model: string): boolean {
    return live.devices.some((device) => device.models.some((it) => it.name === model && it.is_whole));
  }

  launch(wish: Wish): Promise<Instance> {
    return api.post<Instance>("place_instance", wish);
  }

  unplace(instance: string): Promise<unknown> {
    return api.delete(`instance/${part(instance)}`);
  }

  async download(model: string): Promise<string> {
    return (await api.post<{ model: string }>("download/start", { model })).model;
  }

  async ofDownload(what: "pause" | "resume" | "cancel", model: string): Promise<void> {
    await api.post(`download/${what}`, { model });
    if (what === "cancel") this.soon();
  }

  async remove(model: string): Promise<{ n_bytes: number; left: string[] }> {
    const path = model.split("/").map(part).join("/");
    const report = await api.delete<{ n_bytes: number; left: string[] }>(`models/${path}`);
    this.soon();
    return report;
  }
}

/** One for the page's life: whoever comes back finds what was known. */
export const library = new Library();
