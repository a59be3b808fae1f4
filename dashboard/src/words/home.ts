/** What the page `home` says. */
export const home = {};
