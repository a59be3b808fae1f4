/** What the node says, as `crates/api/src/view` writes it. Layers are `[start, end)`. */

export type Liveness = "alive" | "suspect" | "dead";
export type InstanceState = "placing" | "fetching" | "loading" | "ready" | "healing" | "failed";
export type Layers = [number, number];

export interface Vitals {
  load_percent: number | null;
  free_bytes: number;
  temperature_c: number | null;
  battery_percent: number | null;
  is_charging: boolean | null;
  n_requests: number;
}

export interface Runner {
  pid: number | null;
  state: "starting" | "ready" | "restarting" | "given up";
  n_restarts: number;
  why: string | null;
}

export interface Stage {
  instance: string;
  epoch: number;
  layers: Layers;
  runner?: Runner;
}

export interface Device {
  id: string;
  name: string;
  is_self: boolean;
  liveness: Liveness;
  addrs: string[];
  rtt_ms: number | null;
  vitals: Vitals | null;
  profile: { decode_bytes_per_s: number; prefill_macs_per_s: number } | null;
  models: { name: string; is_whole: boolean; layers: Layers[] }[];
  memory_bytes: number;
  software: string;
  isa: string;
  /** What its maker calls it; empty if that is not known. */
  device: string;
  /** Its own links to others, as it measured them last. */
  links: { node: string; rtt_ms: number }[];
  stages: Stage[];
  /** Why it gives its layers away: `asked`, `ending`, `hot`, `low_battery`, `low_memory`. */
  draining: string | null;
}

export interface Instance {
  id: string;
  model: string;
  state: InstanceState;
  why: string | null;
  progress: [number, number] | null;
  n_requests: number;
  n_waiting: number;
  predicted_tokens_per_s: number | null;
  measured_tokens_per_s: number | null;
  suggestion: string | null;
  is_automatic: boolean;
  n_ctx: number;
  n_layer: number;
  epoch: number;
  placement: { node: string; layers: Layers }[];
}

export interface ServedModel {
  id: string;
  n_ctx: number;
  n_layer: number;
  architecture: string;
  n_bytes: number;
}

export interface Plan {
  model: string;
  context: number;
  prompt_tokens: number;
  sentence: string;
  candidates: Candidate[];
  left_out: { node: string; name: string; why: string }[];
  each_further: Help[];
}

/** The best that so many devices can do; `null` where the model does not fit them. */
export interface Help {
  n_nodes: number;
  tokens_per_s: number | null;
  first_token_ms: number | null;
  aggregate_tokens_per_s: number | null;
}

export interface Candidate {
  tokens_per_s: number;
  first_token_ms: number;
  aggregate_tokens_per_s: number;
  fetch_ms: number | null;
  stages: PlannedStage[];
}

export interface PlannedStage {
  node: string;
  name: string;
  layers: Layers;
  weight_bytes: number;
  memory_bytes: number;
  fetch_bytes: number;
  compute_ms: number;
  hop_ms: number;
}
