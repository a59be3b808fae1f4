/**
 * What the node says by itself: one stream of events for the whole page.
 *
 * Every event says all there is to say of its subject, so a client that missed some needs only the next. A stream that breaks is
 * opened again, first at once and then ever more slowly; until it stands the page says that what it shows is old.
 */
import { api, needsToken } from "./api";
import type { Device, Instance } from "./types";

/** `waiting` until the first event came, `lost` once a stream broke, `locked` where the node asks for its token. */
export type Connection = "waiting" | "open" | "lost" | "locked";

/** Pauses between two attempts, in milliseconds. */
const PAUSE_MIN_MS = 500;
const PAUSE_MAX_MS = 10_000;
/** A stream that says nothing for so long is gone, whatever the browser believes: the node sends something every ten seconds. */
const SILENCE_MAX_MS = 25_000;

/**
 * Subjects that are told of at once and then when they change: heard from the start, so that a page that is opened later knows what
 * was said before it.
 */
const KEPT = ["state", "downloads", "vitals", "requests", "log"];

type Listener = (data: never) => void;

class Live {
  connection: Connection = $state("waiting");
  /** When the stream broke, by this device's clock. */
  lostAt: number | null = $state(null);
  devices: Device[] = $state.raw([]);
  instances: Instance[] = $state.raw([]);

  readonly #listeners = new Map<string, Set<Listener>>();
  readonly #latest = new Map<string, unknown>();
  #source: EventSource | null = null;
  #pause = PAUSE_MIN_MS;
  #silence: ReturnType<typeof setTimeout> | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;

  /** The node that this page came from. */
  get self(): Device | undefined {
    return this.devices.find((device) => device.is_self);
  }

  /** What others call a device, or the beginning of its id. */
  nameOf(id: string): string {
    return this.devices.find((device) => device.id === id)?.name ?? id.slice(0, 8);
  }

  /** Its place in the list, which gives it its colour: stable while the cluster is. */
  colourOf(id: string): string {
    const ids = this.devices.map((device) => device.id).sort();
    return `var(--device-${Math.max(0, ids.indexOf(id)) % 8})`;
  }

  /** Begins to listen. */
  start(): void {
    this.on("state", (state: { nodes: Device[]; instances: Instance[] }) => {
      this.devices = state.nodes;
      this.instances = state.instances;
    });
    this.#open();
    // A phone that was asleep should not wait for a timer of before.
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && this.connection !== "open") this.again();
    });
    window.addEventListener("online", () => this.again());
  }

  /** Tries at once instead of after the pause. */
  again(): void {
    this.#pause = PAUSE_MIN_MS;
    this.#open();
  }

  /**
   * Calls `listener` with every event of a name, first with the latest one if there was any. Returns what ends that; an `$effect`
   * can return it as it is.
   */
  on<T>(name: string, listener: (data: T) => void): () => void {
    const listeners = this.#listeners.get(name) ?? new Set();
    const entry = listener as Listener;
    listeners.add(entry);
    this.#listeners.set(name, listeners);
    this.#source?.addEventListener(name, this.#hear);
    if (this.#latest.has(name)) listener(this.#latest.get(name) as T);
    return () => listeners.delete(entry);
  }

  readonly #hear = (event: MessageEvent<string>): void => {
    this.#heard();
    const data = JSON.parse(event.data) as never;
    this.#latest.set(event.type, data);
    for (const listener of this.#listeners.get(event.type) ?? []) listener(data);
  };

  #heard(): void {
    this.connection = "open";
    this.lostAt = null;
    this.#pause = PAUSE_MIN_MS;
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => void this.#check(), SILENCE_MAX_MS);
  }

  #open(): void {
    clearTimeout(this.#retry);
    this.#source?.close();
    const source = new EventSource("events");
    this.#source = source;
    for (const name of new Set([...KEPT, ...this.#listeners.keys()])) source.addEventListener(name, this.#hear);
    source.onopen = () => this.#heard();
    source.onerror = () => {
      // The browser's own attempts know no pause that grows and stop at the first error status.
      source.close();
      void this.#broken();
    };
  }

  /** Comments that keep the stream alive are not shown to pages: whether silence means anything has to be asked. */
  async #check(): Promise<void> {
    try {
      await api.get("health");
      this.#silence = setTimeout(() => void this.#check(), SILENCE_MAX_MS);
    } catch {
      this.#source?.close();
      await this.#broken();
    }
  }

  async #broken(): Promise<void> {
    clearTimeout(this.#silence);
    clearTimeout(this.#retry);
    this.lostAt ??= Date.now();
    if (this.connection !== "locked") this.connection = "lost";
    try {
      await api.get("health");
    } catch (error) {
      if (needsToken(error)) {
        this.connection = "locked";
        return;
      }
    }
    this.#retry = setTimeout(() => this.#open(), this.#pause);
    this.#pause = Math.min(this.#pause * 2, PAUSE_MAX_MS);
  }
}

export const live = new Live();
