/**
 * Server-sent events out of pieces of text, as the HTML standard reads them: for streams that `EventSource` cannot ask for, since
 * it knows neither POST nor headers.
 */

export interface ServerEvent {
  /** `message` where the stream names none. */
  name: string;
  data: string;
  /** The latest id, also if an earlier event had it. */
  id: string | null;
}

export class SseReader {
  #buffer = "";
  #name = "";
  #data: string[] = [];
  #id: string | null = null;
  #isFirst = true;

  /** Takes a piece, and gives the events that it completed. What is not ended by an empty line is never an event. */
  push(piece: string): ServerEvent[] {
    let text = this.#buffer + piece;
    if (this.#isFirst && text !== "") {
      this.#isFirst = false;
      if (text.startsWith("\ufeff")) text = text.slice(1);
    }
    const events: ServerEvent[] = [];
    let at = 0;
    for (;;) {
      const end = lineEnd(text, at);
      // A return at the very end may be half of a line end.
      if (end < 0 || (text[end] === "\r" && end + 1 === text.length)) break;
      const event = this.#line(text.slice(at, end));
      if (event !== null) events.push(event);
      at = end + (text[end] === "\r" && text[end + 1] === "\n" ? 2 : 1);
    }
    this.#buffer = text.slice(at);
    return events;
  }

  #line(line: string): ServerEvent | null {
    if (line === "") {
      const event = this.#data.length === 0 ? null : { name: this.#name || "message", data: this.#data.join("\n"), id: this.#id };
      this.#name = "";
      this.#data = [];
      return event;
    }
    const colon = line.indexOf(":");
    // A comment: it keeps the connection alive.
    if (colon === 0) return null;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "event") this.#name = value;
    else if (field === "data") this.#data.push(value);
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    return null;
  }
}

function lineEnd(text: string, from: number): number {
  for (let at = from; at < text.length; at += 1) {
    const letter = text[at];
    if (letter === "\n" || letter === "\r") return at;
  }
  return -1;
}
