/** The messages of a chat as a tree: who edits a question or asks for another answer begins a branch beside the old one. */
import type { Message } from "./types";

/** The path from the first message to `leaf`. A leaf that is not there shows the newest branch. */
export function path(messages: readonly Message[], leaf: string | null): Message[] {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const found: Message[] = [];
  const seen = new Set<string>();
  const from = leaf !== null && byId.has(leaf) ? leaf : newestLeaf(messages, null);
  for (let at = from === null ? undefined : byId.get(from); at !== undefined && !seen.has(at.id); ) {
    seen.add(at.id);
    found.push(at);
    at = at.parent === null ? undefined : byId.get(at.parent);
  }
  return found.reverse();
}

/** The messages with the same parent, oldest first, as the node gives them. */
export function siblings(messages: readonly Message[], message: Message): Message[] {
  return messages.filter((other) => other.parent === message.parent && (other.role === "assistant") === (message.role === "assistant"));
}

/** The leaf below `id`, taking the newest branch at each fork; `null` begins at the root. */
export function newestLeaf(messages: readonly Message[], id: string | null): string | null {
  let at = id;
  const seen = new Set<string>();
  for (;;) {
    const children = messages.filter((message) => message.parent === at);
    const newest = children.reduce<Message | undefined>(
      (best, child) => (best === undefined || child.created_ms >= best.created_ms ? child : best),
      undefined,
    );
    if (newest === undefined || seen.has(newest.id)) return at;
    seen.add(newest.id);
    at = newest.id;
  }
}

/** The message that a switch by `step` leads to, or `null` at either end. */
export function sibling(messages: readonly Message[], message: Message, step: -1 | 1): Message | null {
  const all = siblings(messages, message);
  const index = all.findIndex((other) => other.id === message.id);
  return all[index + step] ?? null;
}
