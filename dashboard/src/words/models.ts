/** What the page `models` says. */
export const models = {};
