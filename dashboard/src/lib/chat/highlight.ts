/** Colours for code, as a tree; loaded when the first code is shown. */
import bash from "highlight.js/lib/languages/bash";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import { createLowlight } from "lowlight";

const lowlight = createLowlight({ bash, javascript, json, python, rust, xml, yaml });
// The page has to stay light: what a near relative's grammar colours well enough has none of its own.
lowlight.registerAlias({ bash: ["shell", "console", "zsh"], javascript: ["typescript", "ts", "tsx", "c", "h", "cpp", "go", "java"], yaml: ["toml", "ini"] });

/** A piece of code and what it is: a keyword, a string, … */
export interface Piece {
  kind: string;
  text: string;
}

/** More is shown without colours: nobody reads it for them. */
const CHARS_MAX = 60_000;

/** The pieces of code in a language, or `null` where the language is not known. */
export function highlight(code: string, language: string): Piece[] | null {
  if (code.length > CHARS_MAX || !lowlight.registered(language)) return null;
  const pieces: Piece[] = [];
  collect(lowlight.highlight(language, code).children, "", pieces);
  return pieces;
}

type Tree = ReturnType<typeof lowlight.highlight>["children"][number];

/** Flat, since only the innermost meaning has a colour. */
function collect(nodes: readonly Tree[], kind: string, pieces: Piece[]): void {
  for (const node of nodes) {
    if (node.type === "text") {
      const last = pieces[pieces.length - 1];
      if (last?.kind === kind) last.text += node.value;
      else pieces.push({ kind, text: node.value });
    } else if (node.type === "element") {
      const names = node.properties["className"];
      const name = Array.isArray(names) ? String(names[0]).replace(/^hljs-/, "") : "";
      collect(node.children as Tree[], name === "" || name.includes(".") ? kind : name, pieces);
    }
  }
}
