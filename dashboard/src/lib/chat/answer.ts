/**
 * An answer that comes piece by piece, and comes on after the connection broke: asked for once, then attached to with the id of the
 * last event that arrived. Only `[DONE]` makes an answer whole.
 */
import { SseReader, type ServerEvent } from "./sse";
import type { ApiErrorObject, Usage } from "./types";

/** How an answer stands, as the node says it. */
export type Status =
  | { state: "queued"; position: number }
  | { state: "started" }
  | { state: "healing"; why: string }
  | { state: "resumed"; pause_ms: number; n_recomputed: number };

/** Hears of an answer while it comes. */
export interface Sink {
  /** The id by which it can be attached to and ended. */
  named(completion: string): void;
  /** The text begins again at its beginning. */
  restarted(): void;
  wrote(piece: string): void;
  status(status: Status): void;
  /** Nobody answers; it is tried again and again. */
  waiting(isWaiting: boolean): void;
}

export type Ending =
  | { kind: "done"; reason: "stop" | "length" | null; usage: Usage | null }
  /** It began, and broke off for good. */
  | { kind: "failed"; error: ApiErrorObject }
  /** It was not accepted. */
  | { kind: "refused"; status: number; error: ApiErrorObject }
  /** Nobody heard the request, or nobody can say whether somebody did. */
  | { kind: "unsent" }
  /** The node does not keep it any more: what the chat says counts. */
  | { kind: "gone" }
  /** The caller ended it. */
  | { kind: "left" };

/** The two requests and time, so that tests can be quick. */
export interface Wire {
  /** Asks for the answer. */
  ask(signal: AbortSignal): Promise<Response>;
  /** Attaches to it after event `last`, or from its beginning. */
  attach(completion: string, last: string | null, signal: AbortSignal): Promise<Response>;
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

const PAUSE_MIN_MS = 500;
const PAUSE_MAX_MS = 8000;
/** The node says something every five seconds. */
const SILENCE_MAX_MS = 20_000;

/** Follows an answer to its end. With `completion` it is under way already; else it is asked for. */
export async function follow(wire: Wire, sink: Sink, signal: AbortSignal, completion: string | null = null): Promise<Ending> {
  const state: State = { completion, last: null, reason: null, usage: null };
  let pause = PAUSE_MIN_MS;
  for (let isFirst = true; !signal.aborted; isFirst = false) {
    const line = new AbortController();
    const leave = (): void => line.abort();
    signal.addEventListener("abort", leave);
    try {
      const isNew = state.completion === null;
      const response =
        state.completion === null ? await wire.ask(line.signal) : await wire.attach(state.completion, state.last, line.signal);
      if (response.ok) {
        sink.waiting(false);
        if (!isNew && state.last === null) sink.restarted();
        const before = state.last;
        const ending = await read(response, state, sink, () => line.abort());
        if (ending !== null) return ending;
        if (state.last !== before) pause = PAUSE_MIN_MS;
      } else {
        const error = await errorOf(response);
        if (isNew) return { kind: "refused", status: response.status, error };
        if (response.status === 404 || response.status === 410) return { kind: "gone" };
        if (response.status < 500 && response.status !== 429) return { kind: "failed", error };
      }
    } catch {
      // Nobody answered, or the connection broke: below it is tried again.
    } finally {
      signal.removeEventListener("abort", leave);
    }
    if (signal.aborted) break;
    if (state.completion === null) return { kind: "unsent" };
    // The first break is mended at once: most are a phone that changed its network.
    if (!isFirst) sink.waiting(true);
    await wire.sleep(pause, signal);
    pause = Math.min(pause * 2, PAUSE_MAX_MS);
  }
  return { kind: "left" };
}

interface State {
  completion: string | null;
  last: string | null;
  reason: "stop" | "length" | null;
  usage: Usage | null;
}

/** Reads one connection. `null` if it ended before the answer did. */
async function read(response: Response, state: State, sink: Sink, cut: () => void): Promise<Ending | null> {
  const reader = response.body?.getReader();
  if (reader === undefined) return null;
  const decoder = new TextDecoder();
  const events = new SseReader();
  let silence: ReturnType<typeof setTimeout> | undefined;
  try {
    for (;;) {
      clearTimeout(silence);
      silence = setTimeout(cut, SILENCE_MAX_MS);
      const { done, value } = await reader.read();
      if (done) return null;
      for (const event of events.push(decoder.decode(value, { stream: true }))) {
        const ending = take(event, state, sink);
        if (event.id !== null) state.last = event.id;
        if (ending !== null) return ending;
      }
    }
  } finally {
    clearTimeout(silence);
    void reader.cancel().catch(() => undefined);
  }
}

interface Chunk {
  id?: string;
  error?: ApiErrorObject;
  choices?: { delta?: { content?: string | null }; finish_reason?: "stop" | "length" | null }[];
  usage?: Usage | null;
}

function take(event: ServerEvent, state: State, sink: Sink): Ending | null {
  if (event.data === "[DONE]") return { kind: "done", reason: state.reason, usage: state.usage };
  const data = parsed(event.data);
  if (data === null) return null;
  if (event.name === "shoal.status") {
    sink.status(data as Status);
    return null;
  }
  if (event.name !== "message") return null;
  const chunk = data as Chunk;
  if (chunk.error !== undefined) {
    // Not the answer's failure: it may stand in the chat.
    if (chunk.error.code === "events_gone" || chunk.error.code === "answer_gone") return { kind: "gone" };
    return { kind: "failed", error: chunk.error };
  }
  if (state.completion === null && typeof chunk.id === "string") {
    state.completion = chunk.id;
    sink.named(chunk.id);
  }
  const choice = chunk.choices?.[0];
  const content = choice?.delta?.content;
  if (typeof content === "string" && content !== "") sink.wrote(content);
  if (choice?.finish_reason) state.reason = choice.finish_reason;
  if (chunk.usage) state.usage = chunk.usage;
  return null;
}

function parsed(text: string): object | null {
  try {
    const data: unknown = JSON.parse(text);
    return typeof data === "object" ? data : null;
  } catch {
    return null;
  }
}

/** What a refusal says. */
export async function errorOf(response: Response): Promise<ApiErrorObject> {
  try {
    const body = (await response.json()) as { error?: ApiErrorObject };
    if (typeof body.error?.message === "string") return body.error;
  } catch {
    // Not the API's own words: the status has to do.
  }
  return { message: `the node answered with status ${response.status}` };
}

/** Waits, but not longer than somebody is interested. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
