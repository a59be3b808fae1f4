/** Reasoning and answer apart: models write what they think between `<think>` and `</think>`, most of them first of all. */

export interface Part {
  kind: "thought" | "text";
  text: string;
  /** A thought that is still being thought. */
  isOpen: boolean;
}

const OPENING = ["<think>", "<thinking>"];
const CLOSING: Record<string, string> = { "<think>": "</think>", "<thinking>": "</thinking>" };

/** How many letters at the end may be the beginning of `mark`. */
function begun(text: string, mark: string): number {
  for (let n = Math.min(mark.length - 1, text.length); n > 0; n -= 1) {
    if (text.endsWith(mark.slice(0, n))) return n;
  }
  return 0;
}

/**
 * Takes an answer apart. A mark counts only at the beginning of a line, so that an answer about `<think>` stays as it is; half a
 * mark at the end of an answer that grows is not shown yet. Some templates write the opening mark into the prompt: then
 * the answer has a closing one only, and all before it was thought.
 */
export function parts(answer: string, isWhole: boolean): Part[] {
  const found: Part[] = [];
  let rest = answer;
  const close = rest.indexOf("</think>");
  if (close >= 0 && !OPENING.some((mark) => rest.slice(0, close).includes(mark)) && /^\s*$|\n\s*$/.test(rest.slice(0, close))) {
    push(found, "thought", rest.slice(0, close), false);
    rest = rest.slice(close + "</think>".length);
  }
  while (rest !== "") {
    const opening = OPENING.map((mark) => ({ mark, at: lineStart(rest, mark) }))
      .filter(({ at }) => at >= 0)
      .sort((a, b) => a.at - b.at)[0];
    if (opening === undefined) {
      const n = isWhole ? 0 : Math.max(...OPENING.map((mark) => begun(rest, mark)));
      push(found, "text", rest.slice(0, rest.length - n), false);
      break;
    }
    push(found, "text", rest.slice(0, opening.at), false);
    rest = rest.slice(opening.at + opening.mark.length);
    const closing = CLOSING[opening.mark] ?? "</think>";
    const end = rest.indexOf(closing);
    if (end < 0) {
      const n = isWhole ? 0 : begun(rest, closing);
      push(found, "thought", rest.slice(0, rest.length - n), !isWhole);
      break;
    }
    push(found, "thought", rest.slice(0, end), false);
    rest = rest.slice(end + closing.length);
  }
  return found;
}

/** Where a mark stands as the first of its line, or -1. */
function lineStart(text: string, mark: string): number {
  for (let at = text.indexOf(mark); at >= 0; at = text.indexOf(mark, at + 1)) {
    if (/(?:^|\n)[ \t]*$/.test(text.slice(Math.max(0, text.lastIndexOf("\n", at - 1)), at))) return at;
  }
  return -1;
}

function push(found: Part[], kind: Part["kind"], text: string, isOpen: boolean): void {
  const trimmed = kind === "thought" ? text.trim() : text.replace(/^\s*\n/, "");
  if (trimmed.trim() === "" && !isOpen) return;
  found.push({ kind, text: trimmed, isOpen });
}

/** The answer without its thoughts: what is sent back to the model, and copied. */
export function withoutThoughts(answer: string): string {
  return parts(answer, true)
    .filter((part) => part.kind === "text")
    .map((part) => part.text)
    .join("")
    .trim();
}
