/** What the node says of requests, events and the past hour. Times `*_ms` of log, history and requests are since 1970. */

export type RequestState = "queued" | "prefill" | "decoding" | "healing" | "done" | "failed" | "cancelled";

export interface Request {
  id: string;
  answer: string | null;
  can_cancel: boolean;
  model: string;
  instance: string;
  state: RequestState;
  position: number | null;
  why: string | null;
  n_prompt: number;
  n_cached: number | null;
  n_tokens: number;
  tokens_per_s: number | null;
  first_token_ms: number | null;
  n_healed: number;
  healed_ms: number;
  started_ms: number;
  took_ms: number;
  stages: string[];
  by: string | null;
}

export interface Step {
  end: number;
  n_tokens: number;
  has_token: boolean;
  sent_ms: number;
  took_ms: number;
  hops_ms: number;
  stages: { queued_ms: number; compute_ms: number; n_rows: number }[];
}

/** The head of a trace; `steps` come with one that is asked for by itself. */
export interface TraceHead {
  id: number;
  model: string;
  instance: string;
  driver: string;
  stages: string[];
  received_unix_ms: number;
  prepared_ms: number;
  started_ms: number;
  first_token_ms: number | null;
  ended_ms: number | null;
  outcome: string | null;
  n_prompt: number;
  n_cached: number;
  n_generated: number;
  n_steps: number;
}

export interface Trace extends TraceHead {
  steps: Step[];
}

export type Level = "info" | "notice" | "warning" | "error";

export interface LogEntry {
  seq: number;
  at_ms: number;
  level: Level;
  kind: string;
  text: string;
  node: string | null;
  instance: string | null;
  model: string | null;
}

export interface LogEvent {
  began_ms: number;
  newest: number;
  oldest: number;
  entries: LogEntry[];
}

export type Samples = (number | null)[];

export interface History {
  interval_s: number;
  end_ms: number;
  n: number;
  nodes: {
    id: string;
    name: string;
    temperature_c: Samples;
    battery_percent: Samples;
    is_charging: Samples;
    load_percent: Samples;
    free_mib: Samples;
  }[];
  own: { decode_per_s: Samples; prefill_per_s: Samples; n_requests: Samples };
}
