/** The part of the address behind `#`, which names the page that is shown: so a node needs no routes for pages. */

/** An address like `#/chat/0123?model=demo`, taken apart. */
export interface Route {
  /** The first part: `home`, `chat`, `models`, … */
  page: string;
  /** What follows it, decoded. */
  rest: string[];
  query: URLSearchParams;
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Takes an address's fragment apart; `home` where it names nothing. */
export function parse(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [page = "", ...rest] = path.split("/").filter((part) => part !== "").map(decoded);
  return { page: page === "" ? "home" : page, rest, query: new URLSearchParams(query) };
}

/** The fragment of a page. */
export function to(page: string, ...rest: string[]): string {
  return `#/${[page, ...rest].map(encodeURIComponent).join("/")}`;
}
