/** Colours for code, as a tree; loaded when the first code is shown. */
import bash from "highlight.js/lib/languages/bash";
import cpp from "highlight.js/lib/languages/cpp";
import css from "highlight.js/lib/languages/css";
import go from "highlight.js/lib/languages/go";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import { createLowlight } from "lowlight";

const lowlight = createLowlight({ bash, cpp, css, go, java, javascript, json, python, rust, sql, typescript, xml, yaml });
lowlight.registerAlias({ bash: ["shell", "console", "zsh"], cpp: ["c", "h"], yaml: ["toml", "ini"] });

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
