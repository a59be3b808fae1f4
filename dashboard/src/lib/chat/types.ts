/** Chats as the node keeps them: `GET /chats` and its kin, see docs/chats.md. Times are Unix milliseconds. */
import type { Layers } from "../types";

export type Role = "user" | "assistant" | "system";

/** How an answer stands: `interrupted` where its node ended, `stopped` where somebody asked for it. */
export type MessageState = "done" | "running" | "stopped" | "interrupted" | "failed";

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details?: { cached_tokens: number };
}

export interface ApiErrorObject {
  message: string;
  type?: string;
  param?: string | null;
  code?: string | null;
  missing?: { node: string; layers: Layers };
}

export interface Share {
  id: string;
  name: string;
  layers: Layers;
}

/** What is known about a message; only `state` is always there. */
export interface Meta {
  state: MessageState;
  completion?: string;
  node?: string;
  model?: string;
  finish_reason?: "stop" | "length" | null;
  usage?: Usage | null;
  tokens_per_s?: number | null;
  first_token_ms?: number | null;
  devices?: Share[];
  n_healed?: number;
  healed_ms?: number;
  error?: ApiErrorObject | null;
}

export interface Message {
  id: string;
  parent: string | null;
  role: Role;
  text: string;
  created_ms: number;
  meta: Meta;
}

/** What a request may hold beside its messages; the node's defaults for what is not there. */
export interface Parameters {
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  repeat_penalty?: number;
  max_tokens?: number;
  seed?: number;
  stop?: string[];
}

export interface ChatHead {
  id: string;
  title: string;
  model: string;
  system: string;
  parameters: Parameters;
  leaf: string | null;
  created_ms: number;
  changed_ms: number;
  version: string;
}

export interface Chat extends ChatHead {
  messages: Message[];
}

export interface ChatSummary {
  id: string;
  title: string;
  preview: string;
  model: string;
  created_ms: number;
  changed_ms: number;
  n_messages: number;
  n_bytes: number;
  version: string;
  snippet: string | null;
}

export interface ChatPage {
  chats: ChatSummary[];
  next: string | null;
  n_total: number;
}

/** The event `chats`. `null`: read the list again. */
export interface ChatsChanged {
  version: number;
  changed: { id: string; title: string; changed_ms: number; is_deleted: boolean }[] | null;
}

/** A new id: 128 random bits. Works on pages that came without https too. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
