/** What was typed and not sent, kept in this browser: a chat's own, or that of the chat which is not begun. */
import type { TextFile } from "./files";

export interface Draft {
  text: string;
  files: TextFile[];
}

const KEY = "shoal.draft.";
/** Browsers keep a few megabytes for a whole origin. */
const KEPT_CHARS_MAX = 200_000;
const KEPT_MAX = 40;

const memory = new Map<string, Draft>();

export function draftOf(chat: string | null): Draft {
  const key = chat ?? "new";
  const kept = memory.get(key);
  if (kept !== undefined) return kept;
  try {
    const stored: unknown = JSON.parse(localStorage.getItem(KEY + key) ?? "null");
    if (stored !== null && typeof stored === "object" && "text" in stored && typeof stored.text === "string") {
      const files = "files" in stored && Array.isArray(stored.files) ? (stored.files as TextFile[]) : [];
      return { text: stored.text, files };
    }
  } catch {
    // A browser that keeps nothing, or something of another program.
  }
  return { text: "", files: [] };
}

export function keepDraft(chat: string | null, draft: Draft): void {
  const key = chat ?? "new";
  try {
    if (draft.text === "" && draft.files.length === 0) {
      memory.delete(key);
      localStorage.removeItem(KEY + key);
      return;
    }
    memory.set(key, draft);
    const text = JSON.stringify(draft);
    if (text.length > KEPT_CHARS_MAX) return;
    const others = Object.keys(localStorage).filter((name) => name.startsWith(KEY));
    if (others.length >= KEPT_MAX && !others.includes(KEY + key)) localStorage.removeItem(others[0] as string);
    localStorage.setItem(KEY + key, text);
  } catch {
    // As above: the draft lives as long as the page.
  }
}
