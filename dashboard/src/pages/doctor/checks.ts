/** Checks: those of the node and those that only a page can make, and what is said of them all. */
import { words } from "../../words";

export type State = "ok" | "warning" | "problem" | "skipped";

export interface Check {
  id: string;
  title: string;
  state: State;
  found: string;
  what_to_do: string;
}

/** What a page knows about its way to the node. */
export interface Way {
  isOpen: boolean;
  /** How long an answer took, in milliseconds; `null` if none came. */
  tookMs: number | null;
  /** By how much the node's clock is ahead, in milliseconds; `null` if it did not tell. */
  aheadMs: number | null;
  hostname: string;
  isSecure: boolean;
}

/** Longer than this is noticed. */
const SLOW_MS = 1000;
/** Clocks that differ by less are set by the network. */
const CLOCK_MS = 60_000;
const SEVERITY: Record<State, number> = { problem: 0, warning: 1, ok: 2, skipped: 3 };
const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\])$/;

export function ofPage(way: Way): Check[] {
  const said = words.doctor;
  const check = (id: string, title: string, state: State, found: string, todo: string): Check => ({
    id,
    title,
    state,
    found,
    what_to_do: state === "ok" || state === "skipped" ? "" : todo,
  });
  const { isOpen, tookMs, aheadMs, hostname, isSecure } = way;
  const isHere = LOOPBACK.test(hostname);
  return [
    check("stream", said.stream.title, isOpen ? "ok" : "problem", isOpen ? said.stream.ok : said.stream.lost, said.stream.todo),
    tookMs === null
      ? check("answers", said.answers.title, "problem", said.answers.none, said.stream.todo)
      : tookMs < SLOW_MS
        ? check("answers", said.answers.title, "ok", said.answers.took(tookMs), "")
        : check("answers", said.answers.title, "warning", said.answers.slow(tookMs), said.answers.todo),
    aheadMs === null
      ? check("clock-here", said.clock.title, "skipped", said.clock.unknown, "")
      : Math.abs(aheadMs) < CLOCK_MS
        ? check("clock-here", said.clock.title, "ok", said.clock.ok, "")
        : check("clock-here", said.clock.title, "warning", said.clock.off(Math.abs(aheadMs)), said.clock.todo),
    isHere
      ? check("address", said.address.title, "ok", said.address.here, "")
      : isSecure
        ? check("address", said.address.title, "ok", said.address.secure, "")
        : check("address", said.address.title, "warning", said.address.plain, said.address.todo),
  ];
}

/** The worst first; of one severity in the order in which they came. */
export function sorted(checks: Check[]): Check[] {
  return [...checks].sort((a, b) => SEVERITY[a.state] - SEVERITY[b.state]);
}

/** One sentence about all of them. */
export function verdict(checks: Check[]): { text: string; state: "ok" | "warning" | "problem" } {
  const count = (state: State): number => checks.filter((it) => it.state === state).length;
  const [problems, warnings] = [count("problem"), count("warning")];
  if (problems + warnings === 0) return { text: words.doctor.well, state: "ok" };
  return { text: words.doctor.trouble(problems, warnings), state: problems > 0 ? "problem" : "warning" };
}

/** All of it as plain text, for those who help. */
export function report(checks: Check[], time: string, version: string): string {
  const said = words.doctor;
  const lines = sorted(checks).map(({ title, state, found, what_to_do: todo }) =>
    [`[${said.states[state]}] ${title}`, `    ${found}`, ...(todo === "" ? [] : [`    ${said.todo}: ${todo}`])].join("\n"),
  );
  return [said.report.title, said.report.at(time, version), "", ...lines, ""].join("\n");
}
