/**
 * Markdown as tokens, for elements that Svelte makes of them. Nothing here makes HTML, and HTML in the text is text.
 *
 * Maths is told from money as Pandoc does: no space after the first `$` or before the last, and no digit behind it.
 */
import { Marked, type Token, type Tokens } from "marked";

/** A formula: `text` is TeX without its signs. */
export interface MathsToken extends Tokens.Generic {
  type: "maths";
  raw: string;
  text: string;
  isBlock: boolean;
}

function maths(raw: string, text: string, isBlock: boolean): MathsToken {
  return { type: "maths", raw, text: text.trim(), isBlock };
}

const BLOCK = /^ {0,3}(?:\$\$((?:[^$]|\$(?!\$))+)\$\$|\\\[((?:[^\\]|\\(?!\]))+)\\\])[ \t]*(?:\n+|$)/;
const INLINE_DOUBLE = /^\$\$((?:[^$\\]|\\[\s\S]|\$(?!\$))+)\$\$|^\\\[((?:[^\\]|\\(?!\]))+)\\\]/;
const INLINE_SINGLE = /^\$(?![\s$])((?:[^$\\\n]|\\[^\n])*?(?:[^$\\\s]|\\[^\s]))\$(?![\d$])|^\\\(((?:[^\\\n]|\\(?!\)))+)\\\)/;

const marked = new Marked({
  gfm: true,
  // `undefined` says that it is not HTML, so that it goes on as text; `false` would ask the usual tokenizer.
  tokenizer: { html: () => undefined, tag: () => undefined },
  extensions: [
    {
      name: "blockMaths",
      level: "block",
      start: (source: string) => place(source.search(/(?:^|\n) {0,3}(?:\$\$|\\\[)/)),
      tokenizer(source: string) {
        const match = BLOCK.exec(source);
        return match === null ? undefined : maths(match[0], match[1] ?? match[2] ?? "", true);
      },
    },
    {
      name: "inlineMaths",
      level: "inline",
      start: (source: string) => place(source.search(/\$|\\[([]/)),
      tokenizer(source: string) {
        const double = INLINE_DOUBLE.exec(source);
        if (double !== null) return maths(double[0], double[1] ?? double[2] ?? "", true);
        const single = INLINE_SINGLE.exec(source);
        return single === null ? undefined : maths(single[0], single[1] ?? single[2] ?? "", false);
      },
    },
  ],
});

function place(index: number): number | undefined {
  return index < 0 ? undefined : index;
}

/** The tokens of a text whose line ends are `\n`: their `raw` together is the text. */
export function tokensOf(text: string): Token[] {
  try {
    return marked.lexer(text);
  } catch {
    // Nesting beyond all sense: the text as it is.
    return [{ type: "paragraph", raw: text, text, tokens: [{ type: "text", raw: text, text, escaped: false }] }];
  }
}

/** The address that a link may lead to, or `null`: pages and mail only, never scripts, files or this page itself. */
export function safeLink(href: string): string | null {
  let url: URL;
  try {
    url = new URL(href);
  } catch {
    return null;
  }
  return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
}

const NAMED: Record<string, string> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: "\u00a0",
  copy: "©",
  reg: "®",
  trade: "™",
  deg: "°",
  times: "×",
  divide: "÷",
  plusmn: "±",
  hellip: "…",
  mdash: "—",
  ndash: "–",
  lsquo: "‘",
  rsquo: "’",
  ldquo: "“",
  rdquo: "”",
  bull: "•",
  middot: "·",
  euro: "€",
  larr: "←",
  rarr: "→",
  le: "≤",
  ge: "≥",
  ne: "≠",
};

/** Text with the entities that models write put into letters. The result is text, whatever it looks like. */
export function decoded(text: string): string {
  if (!text.includes("&")) return text;
  return text.replace(/&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-zA-Z]{2,8}));/g, (whole, decimal, hex, name) => {
    if (name !== undefined) return NAMED[name as string] ?? whole;
    const code = decimal === undefined ? parseInt(hex as string, 16) : Number(decimal);
    const isText = code >= 0x20 && code <= 0x10ffff && !(code >= 0x7f && code < 0xa0) && !(code >= 0xd800 && code < 0xe000);
    return isText ? String.fromCodePoint(code) : whole;
  });
}

/** What a link or an image's description says, without its marks. */
export function plain(tokens: readonly Token[] | undefined, otherwise: string): string {
  if (tokens === undefined || tokens.length === 0) return decoded(otherwise);
  return tokens
    .map((token) => ("tokens" in token && token.tokens ? plain(token.tokens, "") : decoded("text" in token ? token.text : "")))
    .join("");
}
