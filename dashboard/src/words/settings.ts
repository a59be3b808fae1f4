/** What the page `settings` says. */
export const settings = {};
