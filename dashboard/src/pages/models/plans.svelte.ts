/**
 * What the planner says of the models that are on the screen: asked for when a model is seen, two at a time, and kept as long as
 * the cluster stays as it is. A plan of a model that no device has makes the node ask the hub; once that failed, no more are asked
 * for until the reader wants it.
 */
import { api, ApiFailure, part } from "../../lib/api";
import type { Plan } from "../../lib/types";

const AT_ONCE = 2;

export type Outlook = { state: "asked" } | { state: "known"; plan: Plan } | { state: "unknown"; error: unknown };

/** A failure that every model would share which is on no device. */
function isHubs(error: unknown): boolean {
  return error instanceof ApiFailure && ["hub_failed", "offline"].includes(error.code);
}

interface Question {
  model: string;
  isHeld: boolean;
}

export class Plans {
  all: Record<string, Outlook> = $state({});
  /** The hub did not answer: only what some device has is asked for. */
  isCut = $state(false);
  #waiting: Question[] = [];
  #nAsked = 0;
  #age = 0;

  /** Asks for a model's plan unless it is known. */
  ask(model: string, isHeld: boolean): void {
    if (model in this.all || this.#waiting.some((it) => it.model === model)) return;
    if (this.isCut && !isHeld) return;
    this.#waiting.push({ model, isHeld });
    this.#next();
  }

  /** It is off the screen again before its turn came. */
  skip(model: string): void {
    this.#waiting = this.#waiting.filter((it) => it.model !== model);
  }

  /** The cluster has changed: what was said is old. */
  forget(): void {
    this.#age += 1;
    this.all = {};
    this.#waiting = [];
  }

  /** Tries the hub again. */
  retry(): void {
    this.isCut = false;
    for (const [model, { state }] of Object.entries(this.all)) if (state === "unknown") delete this.all[model];
  }

  #next(): void {
    while (this.#nAsked < AT_ONCE) {
      const question = this.#waiting.shift();
      if (question === undefined) return;
      if (this.isCut && !question.isHeld) continue;
      void this.#get(question);
    }
  }

  async #get({ model, isHeld }: Question): Promise<void> {
    const age = this.#age;
    this.#nAsked += 1;
    this.all[model] = { state: "asked" };
    let outlook: Outlook;
    try {
      outlook = { state: "known", plan: await api.get<Plan>(`plan?model=${part(model)}`) };
    } catch (error) {
      if (!isHeld && isHubs(error)) this.isCut = true;
      outlook = { state: "unknown", error };
    }
    this.#nAsked -= 1;
    if (age === this.#age) this.all[model] = outlook;
    this.#next();
  }
}
