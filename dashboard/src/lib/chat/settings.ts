/** Parameters as people type them: what is empty is left to the node, what is wrong never reaches it. */
import type { Parameters } from "./types";

export interface Typed {
  temperature: string;
  top_p: string;
  max_tokens: string;
  seed: string;
  /** One text in each line. */
  stop: string;
}

export type Wrong = Partial<Record<keyof Typed, true>>;

/** The node takes up to 16. */
const STOPS_MAX = 16;

export function typed(parameters: Parameters): Typed {
  const text = (value: number | undefined): string => (value === undefined ? "" : String(value));
  return {
    temperature: text(parameters.temperature),
    top_p: text(parameters.top_p),
    max_tokens: text(parameters.max_tokens),
    seed: text(parameters.seed),
    stop: (parameters.stop ?? []).map((line) => line.replace(/\n/g, "\\n")).join("\n"),
  };
}

/** The parameters, or which fields are wrong. Ranges are those of the node. */
export function read(fields: Typed, before: Parameters): { parameters: Parameters; wrong: Wrong } {
  const wrong: Wrong = {};
  const parameters: Parameters = { ...before };
  const number = (name: "temperature" | "top_p" | "max_tokens" | "seed", isRight: (value: number) => boolean): void => {
    delete parameters[name];
    // A comma is what many people write for a point.
    const text = fields[name].trim().replace(",", ".");
    if (text === "") return;
    const value = Number(text);
    if (Number.isFinite(value) && isRight(value)) parameters[name] = value;
    else wrong[name] = true;
  };
  number("temperature", (value) => value >= 0 && value <= 100);
  number("top_p", (value) => value > 0 && value <= 1);
  number("max_tokens", (value) => Number.isInteger(value) && value >= 1 && value < 2 ** 32);
  // Beyond this JavaScript's numbers would send another one.
  number("seed", (value) => Number.isSafeInteger(value));
  const stop = fields.stop
    .split("\n")
    .map((line) => line.replace(/\r$/, "").replace(/\\n/g, "\n"))
    .filter((line) => line !== "");
  if (stop.length > STOPS_MAX) wrong.stop = true;
  if (stop.length > 0) parameters.stop = stop;
  else delete parameters.stop;
  return { parameters, wrong };
}
