/** Which page is shown. */
import { parse, type Route } from "./address";

export { to } from "./address";

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
