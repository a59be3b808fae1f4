/** What the node says of models and downloads, as `crates/api/src/view.rs` writes it. */

/** What some devices can do with a model. */
export type Fit =
  | { status: "runs" }
  | { status: "runs_on"; n_nodes: number }
  | { status: "too_large"; missing_bytes: number }
  | { status: "unsupported"; what: string };

/** A model of the catalogue. */
export interface Offer {
  id: string;
  short: string;
  name: string;
  family: string;
  architecture: string;
  format: string;
  licence: string;
  gated: boolean;
  tags: string[];
  n_params: number;
  n_layer: number;
  n_ctx_train: number;
  quant: string | null;
  n_bytes: number;
  memory_bytes: number;
  n_ctx: number;
  here: Fit;
  cluster: Fit;
  stored: string | null;
}

/** A model on this device's disk. */
export interface Stored {
  name: string;
  place: "own" | "hugging_face" | "ollama";
  state: "whole" | "partial" | "damaged";
  n_bytes_held?: number;
  what?: string;
  n_bytes: number;
  n_bytes_on_disk: number;
  dir: string;
  modified: number;
}

export interface Download {
  model: string;
  state: "running" | "paused" | "failed" | "complete";
  message: string | null;
  n_bytes: number;
  n_total: number;
  bytes_per_s: number;
  remaining_s: number | null;
  from_hub: number;
  from_peers: number;
  bad_peers: { node: string; chunk: number }[];
}

/** A repository that a search found. */
export interface Hit {
  repo: string;
  format: "gguf" | "mlx" | "other";
  n_downloads: number;
  n_likes: number;
  last_modified: string | null;
  gated: boolean;
  tags: string[];
}

export interface Disk {
  dir: string;
  free_bytes: number;
  total_bytes: number;
}

/** What a placement is asked for with; what is left out is the planner's to choose. */
export interface Wish {
  model: string;
  context?: number;
  min_nodes?: number;
  max_nodes?: number;
  exclude?: string[];
  replicas?: number;
  throughput?: boolean;
  pin?: { node: string; layers: [number, number] }[];
}
