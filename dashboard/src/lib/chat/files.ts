/** Files as text in a message: each in a fenced block that names it, before the question. */

export interface TextFile {
  name: string;
  text: string;
}

/** Most of one file, in bytes: more than any model here can read. */
export const FILE_BYTES_MAX = 256 << 10;
export const FILES_MAX = 8;
/** Letters from which pasted text becomes a file. */
export const PASTE_CHARS_MIN = 4000;

/** A name that stays on its line and within its marks, whatever the file was called. */
export function cleanName(name: string): string {
  // Controls, marks that turn the direction of text, and what would end the name here.
  const clean = name
    .replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff`]/g, "")
    .trim()
    .slice(0, 120);
  return clean === "" ? "file" : clean;
}

/** Bytes as text, or `null` where they are none. */
export function asText(bytes: Uint8Array): string | null {
  if (bytes.includes(0)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes).replace(/\r\n?/g, "\n");
  } catch {
    return null;
  }
}

/** A fence that the text does not hold. */
function fenceFor(text: string): string {
  const longest = (text.match(/`{3,}/g) ?? []).reduce((n, run) => Math.max(n, run.length), 2);
  return "`".repeat(longest + 1);
}

/** The message of some files and a question. */
export function withFiles(files: readonly TextFile[], question: string): string {
  const blocks = files.map(({ name, text }) => {
    const fence = fenceFor(text);
    return `File \`${cleanName(name)}\`:\n${fence}\n${text}${text.endsWith("\n") ? "" : "\n"}${fence}\n`;
  });
  return [...blocks, question].join("\n");
}

/** Takes a message of `withFiles` apart again. Any other is a question without files. */
export function splitFiles(message: string): { files: TextFile[]; question: string } {
  const files: TextFile[] = [];
  let rest = message;
  for (;;) {
    const head = /^File `([^`\n]+)`:\n(`{3,})\n/.exec(rest);
    if (head === null) break;
    const [whole, name = "", fence = ""] = head;
    const end = rest.indexOf(`\n${fence}\n`, whole.length - 1);
    if (end < 0) break;
    files.push({ name, text: rest.slice(whole.length, end + 1) });
    rest = rest.slice(end + fence.length + 2).replace(/^\n/, "");
  }
  return { files, question: rest };
}
