/**
 * A text that grows, as blocks: paragraphs, lists, code. What is finished keeps its object, and so its place on the page; only the
 * last block or two are read anew when something was added.
 *
 * A block is finished when an empty line follows it and then the whole first line of another one: before that the next letters may
 * still belong to it, as with lists, tables and underlined headings.
 */
import type { Token } from "marked";

import { tokensOf } from "./markdown";

/** A formula that has begun may hold empty lines: nothing is finished behind it, for so many letters. */
const FORMULA_MAX = 2000;

export interface Block {
  /** Where it begins in the text: its key. */
  at: number;
  token: Token;
  /** Of a heading: its place below the message's own, which is 2, without gaps. 0 for the rest. */
  level: number;
}

type Nested = Token & { tokens?: Token[]; items?: Token[] };

/** The new tokens, but the old object wherever it says the same: what shows it then has nothing to do. */
function reuse<T extends Token>(old: readonly T[], next: readonly T[]): T[] {
  return next.map((token, i) => {
    const before = old[i];
    if (before === undefined || before.type !== token.type) return token;
    if (before.raw === token.raw && isSame(before, token)) return before;
    const nested = token as Nested;
    const nestedBefore = before as Nested;
    if (nested.tokens && nestedBefore.tokens) nested.tokens = reuse(nestedBefore.tokens, nested.tokens);
    if (nested.items && nestedBefore.items) nested.items = reuse(nestedBefore.items, nested.items);
    return token;
  });
}

/** Equal source may still be read in two ways: a list becomes loose by what follows an item. */
function isSame(a: Token, b: Token): boolean {
  return (a as { loose?: boolean }).loose === (b as { loose?: boolean }).loose;
}

function isSpace(token: Token): boolean {
  return token.type === "space" || token.type === "def";
}

export class Blocks {
  #text = "";
  /** Up to here the text is read for good. */
  #end = 0;
  #nFinished = 0;
  #blocks: Block[] = [];
  /** For tests: how many letters were read. */
  nRead = 0;

  /**
   * The blocks of `source`. If it begins with the text of the call before, only its end is read. `isWhole` says that nothing will
   * follow: then all of it is read once more, so that it looks as if it had come at once.
   */
  update(source: string, isWhole: boolean): Block[] {
    const text = source.includes("\r") ? source.replace(/\r\n?/g, "\n") : source;
    if (!text.startsWith(this.#text)) {
      this.#end = 0;
      this.#nFinished = 0;
    }
    this.#text = text;
    if (isWhole) {
      this.#end = 0;
      this.#nFinished = 0;
    }
    const tail = text.slice(this.#end);
    this.nRead += tail.length;
    const blocks = this.#blocks.slice(0, this.#nFinished);
    let at = this.#end;
    let nSure = this.#nFinished;
    let end = this.#end;
    const tokens = tokensOf(tail);
    let lastBlockEnd = -1;
    let formula = Infinity;
    for (const [i, token] of tokens.entries()) {
      if (!isSpace(token)) {
        // The block before this one is finished if an empty line ended it and this one's first line is whole.
        const isParted = i > 0 && (tokens[i - 1]?.type === "space" || /\n\s*\n$/.test(tokens[i - 1]?.raw ?? ""));
        const isOpen = at > formula && text.length - formula < FORMULA_MAX;
        if (lastBlockEnd >= 0 && isParted && !isOpen && token.raw.trimStart().includes("\n")) {
          nSure = blocks.length;
          end = at;
        }
        if (formula === Infinity && token.type === "paragraph" && /^ {0,3}(?:\$\$|\\\[)/.test(token.raw)) formula = at;
        blocks.push(this.#block(at, token, blocks));
        lastBlockEnd = at + token.raw.length;
      }
      at += token.raw.length;
    }
    // Where marked changed what it read, places cannot be trusted: everything stays open.
    if (at === text.length) {
      this.#end = end;
      this.#nFinished = nSure;
    }
    this.#blocks = blocks;
    return blocks;
  }

  #block(at: number, token: Token, before: readonly Block[]): Block {
    const level = token.type === "heading" ? Math.min(lastLevel(before) + 1, (token.depth as number) + 2, 6) : 0;
    const old = this.#blocks[before.length];
    if (old === undefined || old.at !== at) return { at, token, level };
    const [same] = reuse([old.token], [token]);
    return same === old.token && old.level === level ? old : { at, token: same ?? token, level };
  }
}

function lastLevel(blocks: readonly Block[]): number {
  for (let i = blocks.length - 1; i >= 0; i -= 1) {
    const level = blocks[i]?.level ?? 0;
    if (level > 0) return level;
  }
  return 2;
}
