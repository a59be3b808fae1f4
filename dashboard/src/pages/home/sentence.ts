/** How things are, in one sentence for everybody, and a second line with what to know about it. */
import { percent, shortName } from "../../lib/format";
import type { Device, Instance } from "../../lib/types";
import { home } from "../../words/home";

/** What the top of the page says. */
export interface Report {
  headline: string;
  detail: string;
  tone: "good" | "accent" | "warn" | "bad";
}

/** What is being made just now. */
export interface Making {
  /** Tokens per second, 0 while none are made. */
  perSecond: number;
  /** The models that make them. */
  models: string[];
}

/** `Qwen2.5 3B`: a model's name without its owner, its file's format and what every chat model is called besides. */
export function spoken(model: string): string {
  const name = shortName(model)
    .replace(/:[^:]*$/, "")
    .replace(/\.gguf$/i, "")
    .replace(/[-_.](i?q\d[a-z0-9_]*|b?f16|f32)$/i, "")
    .replace(/[-_.](gguf|instruct|chat|it)(?![a-z0-9])/gi, "")
    .replace(/[-_](?=[^-_])/g, " ");
  return name.trim() === "" ? model : name;
}

/** Tells how the cluster is. */
export function report(devices: Device[], instances: Instance[], making: Making): Report {
  const present = devices.filter((it) => it.liveness !== "dead");
  const names = (some: Device[]) => some.map((it) => it.name);
  const gone = devices.filter((it) => it.liveness === "dead");
  const quiet = devices.filter((it) => it.liveness === "suspect");
  const leaving = present.filter((it) => it.draining !== null);
  const detail =
    gone.length > 0
      ? home.gone(names(gone))
      : quiet.length > 0
        ? home.quiet(names(quiet))
        : leaving.length > 0
          ? home.leaving(names(leaving))
          : null;
  const lesser = detail === null ? "good" : "warn";
  if (devices.length === 0) return { headline: home.waiting, detail: "", tone: "accent" };

  const healing = instances.find((it) => it.state === "healing");
  if (healing !== undefined) {
    return { headline: home.healing(spoken(healing.model)), detail: detail ?? healing.why ?? "", tone: "warn" };
  }
  const ready = instances.filter((it) => it.state === "ready");
  if (ready.length > 0) {
    const models = [...new Set(ready.map((it) => spoken(it.model)))];
    const known = ready.length === 1 ? (ready[0]?.measured_tokens_per_s ?? ready[0]?.predicted_tokens_per_s ?? null) : null;
    const headline =
      making.perSecond > 0
        ? home.answering(present.length, [...new Set(making.models.map(spoken))], making.perSecond)
        : home.ready(present.length, models, known);
    return { headline, detail: detail ?? home.well, tone: lesser };
  }
  const coming = instances.find((it) => it.state !== "failed");
  if (coming !== undefined) {
    const share = coming.progress === null ? null : percent(coming.progress[0], coming.progress[1]);
    return { headline: home.bringing(spoken(coming.model), share), detail: detail ?? coming.why ?? "", tone: "accent" };
  }
  const failed = instances[0];
  if (failed !== undefined) {
    return { headline: home.failed(spoken(failed.model)), detail: failed.why ?? detail ?? "", tone: "bad" };
  }
  const headline = present.length === 1 ? home.alone : home.idle(present.length);
  return { headline, detail: detail ?? home.choose, tone: detail === null ? "accent" : "warn" };
}
