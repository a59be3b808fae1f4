/** What a reader chose in the preview, and how the node is asked for it. */
import type { Wish } from "./types";

export interface Choice {
  /** Empty: the best one. */
  quant: string;
  /** `null`: the node's own choice. */
  context: number | null;
  min: number | null;
  max: number | null;
  /** Ids of devices that take no layers. */
  without: string[];
  replicas: number;
  /** Many answers at once count more than the speed of one. */
  isForMany: boolean;
}

export function blank(): Choice {
  return { quant: "", context: null, min: null, max: null, without: [], replicas: 1, isForMany: false };
}

/** Only what was chosen is said: the rest is the planner's. */
export function wishOf(model: string, choice: Choice): Wish {
  const wish: Wish = { model };
  if (choice.context !== null) wish.context = choice.context;
  if (choice.min !== null) wish.min_nodes = choice.min;
  // At least four and at most two is nothing that anybody means.
  if (choice.max !== null) wish.max_nodes = Math.max(choice.max, choice.min ?? 1);
  if (choice.without.length > 0) wish.exclude = [...choice.without];
  if (choice.replicas > 1) wish.replicas = choice.replicas;
  if (choice.isForMany) wish.throughput = true;
  return wish;
}
