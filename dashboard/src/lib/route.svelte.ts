/** Which page is shown: the part of the address behind `#`, so that a node needs no routes for pages. */

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

class Router {
  current: Route = $state.raw(parse(window.location.hash));

  constructor() {
    window.addEventListener("hashchange", () => {
      this.current = parse(window.location.hash);
    });
  }

  /** Goes to a fragment made by `to`; with `replace` the reader's way back leads past it. */
  go(hash: string, replace = false): void {
    if (replace) {
      window.history.replaceState(null, "", hash);
      this.current = parse(hash);
    } else {
      window.location.hash = hash;
    }
  }
}

export const router = new Router();
