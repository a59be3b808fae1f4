/** The list of chats: searched by the node, grouped by day here. */
import { live } from "../live.svelte";
import { nodeStore, type ChatStore } from "./store";
import type { ChatsChanged, ChatSummary } from "./types";

const TYPING_MS = 220;
/** The time to regret. */
export const UNDO_MS = 7000;

export class ChatList {
  chats: ChatSummary[] = $state.raw([]);
  nTotal = $state(0);
  next: string | null = $state(null);
  query = $state("");
  error: unknown = $state(null);
  isKnown = $state(false);
  isLoading = $state(false);
  /** The chat that is about to be deleted. */
  leaving: { id: string; title: string } | null = $state.raw(null);

  readonly #store: ChatStore;
  #request: AbortController | null = null;
  #typing: ReturnType<typeof setTimeout> | undefined;
  #undo: ReturnType<typeof setTimeout> | undefined;
  readonly #gone = new Set<string>();

  constructor(store: ChatStore) {
    this.#store = store;
  }

  /** Begins to follow what changes; returns what ends it. */
  follow(): () => void {
    void this.read();
    let isFirst = true;
    const stop = live.on<ChatsChanged>("chats", () => {
      // The first event says what was read just now.
      if (!isFirst) this.readSoon();
      isFirst = false;
    });
    const flush = (): void => this.finish(true);
    window.addEventListener("pagehide", flush);
    return () => {
      stop();
      window.removeEventListener("pagehide", flush);
    };
  }

  search(query: string): void {
    this.query = query;
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => void this.read(), TYPING_MS);
  }

  readSoon(): void {
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => void this.read(), TYPING_MS);
  }

  /** Reads the newest, or with `isMore` those after the last. */
  async read(isMore = false): Promise<void> {
    this.#request?.abort();
    const request = new AbortController();
    this.#request = request;
    this.isLoading = true;
    try {
      const page = await this.#store.list(this.query.trim(), isMore ? this.next : null, request.signal);
      const known = isMore ? this.chats : [];
      const ids = new Set(known.map(({ id }) => id));
      this.chats = [...known, ...page.chats.filter(({ id }) => !ids.has(id))].filter(({ id }) => !this.#gone.has(id));
      this.next = page.next;
      this.nTotal = page.n_total;
      this.error = null;
      this.isKnown = true;
    } catch (error) {
      if (!request.signal.aborted) this.error = error;
    }
    if (this.#request === request) this.isLoading = false;
  }

  /** Takes a chat out of the list; it is deleted when the time to regret is over. */
  remove(id: string, title: string): void {
    this.finish();
    this.#gone.add(id);
    this.chats = this.chats.filter((chat) => chat.id !== id);
    this.leaving = { id, title };
    this.#undo = setTimeout(() => this.finish(), UNDO_MS);
  }

  restore(): void {
    clearTimeout(this.#undo);
    if (this.leaving !== null) this.#gone.delete(this.leaving.id);
    this.leaving = null;
    void this.read();
  }

  /** Deletes what is to be deleted, now. */
  finish(isLeaving = false): void {
    clearTimeout(this.#undo);
    const leaving = this.leaving;
    if (leaving === null) return;
    this.leaving = null;
    this.#store.remove(leaving.id, isLeaving).catch(() => {
      this.#gone.delete(leaving.id);
      void this.read();
    });
  }
}

export const list = new ChatList(nodeStore);
