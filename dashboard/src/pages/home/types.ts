/** What the node says of how devices feel, of tokens as they are made, and of invitations. */

/** A device in the event `vitals`. */
export interface Feeling {
  id: string;
  load_percent: number | null;
  /** What its system has free. */
  free_bytes: number | null;
  /** What it gives to models altogether. */
  memory_bytes: number;
  temperature_c: number | null;
  battery_percent: number | null;
  is_charging: boolean | null;
  n_requests: number | null;
  /** From this node to it, and the bytes between the two. */
  rtt_ms: number | null;
  traffic: { bytes_in: number; bytes_out: number; in_per_s: number; out_per_s: number } | null;
}

/** An instance in the event `tokens`. */
export interface Made {
  instance: string;
  model: string;
  stages: string[];
  driver: string;
  n_tokens: number;
  n_prompt: number;
  tokens_per_s: number;
}

export interface Code {
  size: number;
  path: string;
}

/** A fresh invitation: the only time that its ticket is told. */
export interface Ticket {
  id: string;
  ticket: string;
  command: string;
  expires_at_ms: number | null;
  single_use: boolean;
  qr: Code | null;
}

export interface Invite {
  id: string;
  created_at_ms: number;
  expires_at_ms: number | null;
  single_use: boolean;
  state: "open" | "used" | "expired" | "void";
  joined: { id: string; name: string | null }[];
}
