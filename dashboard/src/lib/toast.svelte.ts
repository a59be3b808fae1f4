/** Short notices that go by themselves: what was done, or why it was not. */
import { told } from "./api";

export interface Toast {
  id: number;
  text: string;
  kind: "good" | "bad";
}

/** Long enough to read twice. */
const SHOWN_MS = 6000;

class Toasts {
  all: Toast[] = $state([]);
  #next = 0;

  say(text: string, kind: Toast["kind"] = "good"): void {
    const id = this.#next++;
    this.all.push({ id, text, kind });
    setTimeout(() => this.drop(id), SHOWN_MS);
  }

  /** Tells of a failure in the node's own words. */
  fail(error: unknown): void {
    this.say(told(error), "bad");
  }

  drop(id: number): void {
    this.all = this.all.filter((toast) => toast.id !== id);
  }
}

export const toasts = new Toasts();
