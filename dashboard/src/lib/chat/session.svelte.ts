/** The chat that is shown: its messages, the answers that are being written, and what a reader does with them. */
import { live } from "../live.svelte";
import { choices } from "./choices.svelte";
import { follow, sleep, type Ending } from "./answer";
import { request } from "./prompt";
import { fresh, nodeStore, type ChatStore, type CompletionBody } from "./store";
import { newestLeaf, path, sibling } from "./tree";
import { newId, type ApiErrorObject, type Chat, type ChatHead, type ChatsChanged, type Message, type Parameters } from "./types";
import { Writing } from "./writing.svelte";

const REFRESH_MS = 400;

/** Why there is no answer to a message: the node refused it, or nobody heard it. */
export interface Refusal {
  /** The message that was to be answered. */
  parent: string;
  error: ApiErrorObject | null;
}

export class Session {
  chat: Chat | null = $state.raw(null);
  /** The chat that the address names, loaded or not. */
  id: string | null = $state(null);
  error: unknown = $state(null);
  /** Somebody else deleted it. */
  isDeleted = $state(false);
  /** What a new chat will begin with. */
  draft: { model: string; system: string; parameters: Parameters } = $state.raw({ model: "", system: "", parameters: {} });
  refusal: Refusal | null = $state.raw(null);
  /** Told to screen readers. */
  said = $state("");
  writings: Record<string, Writing> = $state.raw({});

  readonly #store: ChatStore;
  #refresh: ReturnType<typeof setTimeout> | undefined;
  #nOpened = 0;
  /** Answers whose stream the node does not keep: to ask again would get the same reply, so the chat alone tells of them. */
  readonly #unkept = new Set<string>();

  constructor(store: ChatStore) {
    this.#store = store;
  }

  readonly branch: Message[] = $derived(this.chat === null ? [] : path(this.chat.messages, this.chat.leaf));
  readonly system: string = $derived(this.chat?.system ?? this.draft.system);
  readonly parameters: Parameters = $derived(this.chat?.parameters ?? this.draft.parameters);
  /** The chosen model, or for a new chat the usual one. */
  readonly model: string = $derived(this.chat?.model || this.draft.model || choices.usual);
  /** The answer of the shown branch that is being written, by whichever device. */
  readonly running: Message | null = $derived.by(() => {
    const last = this.branch[this.branch.length - 1];
    return last?.role === "assistant" && last.meta.state === "running" ? last : null;
  });

  /** Shows a chat, or with `null` a new one. */
  async open(id: string | null, model: string | null = null): Promise<void> {
    if (id === null && model !== null) this.draft = { ...this.draft, model };
    if (id === this.id && (id === null || this.chat?.id === id)) return;
    this.id = id;
    this.error = null;
    this.isDeleted = false;
    this.refusal = null;
    if (id === null) {
      this.chat = null;
      return;
    }
    if (this.chat?.id === id) return;
    this.chat = null;
    await this.read();
  }

  /** Reads the shown chat again. */
  async read(): Promise<void> {
    const id = this.id;
    if (id === null) return;
    const turn = ++this.#nOpened;
    try {
      const chat = await this.#store.get(id);
      if (turn === this.#nOpened && this.id === id) this.#take(chat);
    } catch (error) {
      if (turn !== this.#nOpened || this.id !== id) return;
      if (this.chat === null) this.error = error;
      else if (isMissing(error)) this.isDeleted = true;
    }
  }

  /** Follows what other devices do with it; returns what ends that. */
  follow(): () => void {
    return live.on<ChatsChanged>("chats", ({ changed }) => {
      const news = changed?.find(({ id }) => id === this.id);
      if (changed !== null && news === undefined) return;
      if (news?.is_deleted) this.isDeleted = true;
      else this.readSoon();
    });
  }

  readSoon(): void {
    clearTimeout(this.#refresh);
    this.#refresh = setTimeout(() => {
      // What is being written here is newer than what is kept.
      const isBusy = this.chat?.messages.some(({ id }) => this.writings[id]?.isOver === false) ?? false;
      if (!isBusy) void this.read();
    }, REFRESH_MS);
  }

  /** The text of a message as far as it is known here. */
  textOf(message: Message): string {
    const writing = this.writings[message.id];
    return writing !== undefined && !writing.isOver ? writing.text : message.text;
  }

  /** Asks a question. Throws if the node did not take it: then nothing is changed. */
  async send(text: string): Promise<string> {
    const chat = this.chat ?? (await this.#begin());
    const message: Message = {
      id: newId(),
      parent: this.branch[this.branch.length - 1]?.id ?? null,
      role: "user",
      text,
      created_ms: Date.now(),
      meta: fresh("done"),
    };
    await this.#add(chat, message);
    return chat.id;
  }

  /** Asks a question in another way: a branch beside the old one. */
  async edit(message: Message, text: string): Promise<void> {
    if (this.chat === null) return;
    await this.#add(this.chat, { ...message, id: newId(), text, created_ms: Date.now(), meta: fresh("done") });
  }

  /** Asks for another answer to the same question, or for one where there is none. */
  answerAgain(question: Message): void {
    if (this.chat === null) return;
    this.chat = { ...this.chat, leaf: question.id };
    this.#ask(question);
  }

  /** Shows the branch beside a message. */
  switch(message: Message, step: -1 | 1): void {
    if (this.chat === null) return;
    const other = sibling(this.chat.messages, message, step);
    if (other === null) return;
    const leaf = newestLeaf(this.chat.messages, other.id);
    this.chat = { ...this.chat, leaf };
    this.refusal = null;
    void this.#store.patch(this.chat.id, { leaf }).catch(() => undefined);
  }

  /** Ends the answer that is being written; what has come stays. */
  stop(): void {
    const message = this.running;
    if (message === null) return;
    const writing = this.writings[message.id];
    const completion = writing?.completion ?? message.meta.completion;
    if (writing !== undefined && (writing.stage === "away" || completion === undefined)) {
      if (completion === null || completion === undefined) {
        // It has no name yet: it is ended as soon as it has.
        writing.onNamed = (name) => void this.#cancel(name);
        if (writing.stage !== "away") return;
      }
      writing.leaving.abort();
      return;
    }
    if (completion !== null && completion !== undefined) void this.#cancel(completion);
  }

  async #cancel(completion: string): Promise<void> {
    try {
      await this.#store.cancel(completion);
    } catch {
      // It ended by itself, or its node cannot be reached: what the stream says counts.
    }
  }

  /** Changes what belongs to the chat, here and on the node. */
  async change(change: Partial<Pick<ChatHead, "title" | "model" | "system" | "parameters">>): Promise<void> {
    if (change.model !== undefined) choices.remember(change.model);
    if (this.refusal?.error?.param) this.refusal = null;
    if (this.chat === null) {
      const { title: _, ...rest } = change;
      this.draft = { ...this.draft, ...rest };
      return;
    }
    const before = this.chat;
    this.chat = { ...before, ...change };
    try {
      await this.#store.patch(before.id, change);
    } catch (error) {
      if (this.chat?.id === before.id) {
        const { title, model, system, parameters } = before;
        this.chat = { ...this.chat, title, model, system, parameters };
      }
      throw error;
    }
  }

  async #begin(): Promise<Chat> {
    const { system, parameters } = this.draft;
    const chat = await this.#store.create({ id: newId(), model: this.model, system, parameters });
    this.id = chat.id;
    this.chat = chat;
    this.draft = { model: "", system: "", parameters: {} };
    return chat;
  }

  /** Keeps a question and asks it. */
  async #add(chat: Chat, message: Message): Promise<void> {
    this.refusal = null;
    const { id, parent, role, text } = message;
    const kept = await this.#store.add(chat.id, { id, parent, role, text });
    if (this.chat?.id !== chat.id) return;
    this.chat = { ...this.chat, messages: [...this.chat.messages, { ...message, ...kept }], leaf: id };
    this.#ask(message);
  }

  #ask(question: Message): void {
    const chat = this.chat;
    if (chat === null) return;
    this.refusal = null;
    const id = newId();
    const model = this.model;
    const body = request(chat, model, path(chat.messages, question.id), id);
    const meta = { ...fresh("running"), model, devices: this.#devices(model) };
    const answer: Message = { id, parent: question.id, role: "assistant", text: "", created_ms: Date.now(), meta };
    this.chat = { ...chat, messages: [...chat.messages, answer], leaf: id };
    this.said = "begun";
    void this.#write(chat.id, answer, new Writing(true), body);
  }

  /** Who holds the model now; the node says later who held it. */
  #devices(model: string): NonNullable<Message["meta"]["devices"]> {
    const instance = live.instances.find((it) => it.model === model && it.state === "ready");
    return (instance?.placement ?? []).map(({ node, layers }) => ({ id: node, name: live.nameOf(node), layers }));
  }

  /** Follows an answer to its end, and keeps what it came to. */
  async #write(chat: string, answer: Message, writing: Writing, body: CompletionBody | null): Promise<void> {
    const { id } = answer;
    this.writings = { ...this.writings, [id]: writing };
    const wire = {
      ask: (signal: AbortSignal) =>
        body === null ? Promise.reject(new Error("it was asked for already")) : this.#store.complete(body, signal),
      attach: (completion: string, last: string | null, signal: AbortSignal) => this.#store.attach(completion, last, signal),
      sleep,
    };
    const completion = body === null ? (answer.meta.completion ?? null) : null;
    if (completion !== null) writing.completion = completion;
    const ending = await follow(wire, writing, writing.leaving.signal, completion);
    writing.end();
    this.#ended(chat, answer, writing, ending);
  }

  #ended(chat: string, answer: Message, writing: Writing, ending: Ending): void {
    const { id } = answer;
    const parent = answer.parent ?? "";
    if (ending.kind === "refused") {
      this.#forget(id);
      if (this.chat?.id === chat) this.refusal = { parent, error: ending.error };
      return;
    }
    if (ending.kind === "unsent") {
      // Perhaps it arrived and only its beginning was lost: then it stands in the chat.
      this.#forget(id);
      if (this.chat?.id === chat) this.refusal = { parent, error: null };
      void this.read();
      return;
    }
    if (ending.kind === "gone") this.#unkept.add(id);
    const text = writing.whole;
    const isCancelled = ending.kind === "left" || (ending.kind === "failed" && ending.error.code === "cancelled");
    // Nothing that is not whole is called so: of an answer that the node has forgotten only the chat can tell.
    const state = ending.kind === "done" ? "done" : isCancelled ? "stopped" : ending.kind === "gone" ? "interrupted" : "failed";
    this.#change(chat, id, (message) => ({
      ...message,
      text: text.length >= message.text.length ? text : message.text,
      meta: {
        ...message.meta,
        state,
        finish_reason: ending.kind === "done" ? ending.reason : null,
        usage: ending.kind === "done" ? ending.usage : null,
        tokens_per_s: writing.tokensPerS ?? message.meta.tokens_per_s ?? null,
        first_token_ms: writing.firstTokenMs ?? message.meta.first_token_ms ?? null,
        n_healed: writing.nHealed,
        healed_ms: writing.healedMs,
        error: ending.kind === "failed" && !isCancelled ? ending.error : null,
      },
    }));
    if (this.chat?.id === chat) {
      this.said = state;
      this.readSoon();
    }
  }

  #change(chat: string, id: string, change: (message: Message) => Message): void {
    if (this.chat?.id !== chat) return;
    const messages = this.chat.messages.map((message) => (message.id === id ? change(message) : message));
    this.chat = { ...this.chat, messages };
  }

  /** Takes back an answer that was not accepted. */
  #forget(id: string): void {
    const message = this.chat?.messages.find((it) => it.id === id);
    if (this.chat === null || message === undefined) return;
    const messages = this.chat.messages.filter((it) => it.id !== id);
    this.chat = { ...this.chat, messages, leaf: this.chat.leaf === id ? message.parent : this.chat.leaf };
  }

  /** Takes what the node keeps, without losing what is known better here. */
  #take(chat: Chat): void {
    const known = new Map(this.chat?.id === chat.id ? this.chat.messages.map((message) => [message.id, message]) : []);
    const messages = chat.messages.map((message) => {
      const mine = known.get(message.id);
      if (mine === undefined || message.meta.state !== "running") return message;
      // The node writes an answer down a moment after its end.
      return this.writings[message.id]?.isOver === true && mine.meta.state !== "interrupted" ? mine : message;
    });
    // A question or an answer that the node's list does not hold yet.
    const ids = new Set(messages.map(({ id }) => id));
    const ours = [...known.values()].filter(({ id }) => !ids.has(id) && this.writings[id]?.isOver === false);
    const leaf = ours.some(({ id }) => id === this.chat?.leaf) ? (this.chat?.leaf ?? chat.leaf) : chat.leaf;
    this.chat = { ...chat, messages: [...messages, ...ours], leaf };
    if (this.refusal !== null && messages.some(({ parent, role }) => parent === this.refusal?.parent && role === "assistant")) {
      this.refusal = this.refusal.error === null ? null : this.refusal;
    }
    for (const message of messages) this.#join(chat.id, message);
  }

  /** Attaches to an answer that is under way on this node. Those of other devices grow by the event `chats`. */
  #join(chat: string, message: Message): void {
    if (message.meta.state !== "running" || message.meta.completion === undefined) return;
    if (this.writings[message.id]?.isOver === false || this.#unkept.has(message.id)) return;
    const self = live.self?.id;
    if (self !== undefined && message.meta.node !== undefined && message.meta.node !== self) return;
    void this.#write(chat, message, new Writing(false, message.text), null);
  }
}

function isMissing(error: unknown): boolean {
  return typeof error === "object" && error !== null && "status" in error && error.status === 404;
}

export const session = new Session(nodeStore);
