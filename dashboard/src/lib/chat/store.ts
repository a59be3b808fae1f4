/** Where chats are: on the node. Behind an interface, so that tests need none. */
import { api, failureOf, part, send } from "../api";
import type { Chat, ChatHead, ChatPage, Message, Meta, Parameters, Role } from "./types";

export interface NewMessage {
  id: string;
  parent: string | null;
  role: Role;
  text: string;
}

/** The body of `POST /v1/chat/completions` as this page writes it. */
export interface CompletionBody extends Parameters {
  model: string;
  messages: { role: Role; content: string }[];
  stream: true;
  stream_options: { include_usage: true };
  shoal: { status: true; resume_s: number; chat: string; message: string; parent: string };
}

export interface Imported {
  imported: { id: string; title: string; is_merged: boolean }[];
  refused: { index: number; message: string }[];
}

export interface ChatStore {
  list(query: string, before: string | null, signal?: AbortSignal): Promise<ChatPage>;
  get(id: string, signal?: AbortSignal): Promise<Chat>;
  create(chat: { id: string; model: string; system: string; parameters: Parameters }): Promise<Chat>;
  patch(id: string, change: Partial<Pick<ChatHead, "title" | "model" | "system" | "parameters" | "leaf">>): Promise<ChatHead>;
  remove(id: string, isLeaving?: boolean): Promise<void>;
  add(chat: string, message: NewMessage): Promise<Message>;
  import(text: string): Promise<Imported>;
  /** Asks for an answer; the node writes it into the chat. */
  complete(body: CompletionBody, signal: AbortSignal): Promise<Response>;
  attach(completion: string, last: string | null, signal: AbortSignal): Promise<Response>;
  cancel(completion: string): Promise<void>;
}

const PAGE = 50;

/** The chats of the node that this page came from. */
export const nodeStore: ChatStore = {
  list(query, before, signal) {
    const search = new URLSearchParams({ limit: String(PAGE) });
    if (query !== "") search.set("query", query);
    if (before !== null) search.set("before", before);
    return api.get<ChatPage>(`chats?${search}`, signal);
  },
  get: (id, signal) => api.get<Chat>(`chats/${part(id)}`, signal),
  create: (chat) => api.post<Chat>("chats", chat),
  patch: (id, change) => api.patch<ChatHead>(`chats/${part(id)}`, change),
  async remove(id, isLeaving = false) {
    // A page that goes away may still send so much.
    if (isLeaving) await fetch(`chats/${part(id)}`, { method: "DELETE", keepalive: true });
    else await api.delete(`chats/${part(id)}`);
  },
  add: (chat, message) => api.post<Message>(`chats/${part(chat)}/messages`, message),
  async import(text) {
    const response = await fetch("chats/import", { method: "POST", headers: { "content-type": "application/json" }, body: text });
    if (!response.ok) throw await failureOf(response);
    return (await response.json()) as Imported;
  },
  complete: (body, signal) =>
    fetch("v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      cache: "no-store",
      signal,
    }),
  attach: (completion, last, signal) =>
    fetch(`v1/chat/completions/${part(completion)}/stream`, {
      headers: last === null ? {} : { "last-event-id": last },
      cache: "no-store",
      signal,
    }),
  async cancel(completion) {
    await send("DELETE", `v1/chat/completions/${part(completion)}`);
  },
};

/** Where a chat is downloaded. */
export function exportOf(id: string | null, isMarkdown = false): string {
  return id === null ? "chats/export" : `chats/${part(id)}/export${isMarkdown ? "?format=md" : ""}`;
}

/** A message's `meta` before the node has said more. */
export function fresh(state: Meta["state"]): Meta {
  return { state };
}
