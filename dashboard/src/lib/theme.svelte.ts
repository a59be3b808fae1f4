/** Dark or light: what the system says, unless the reader chose. The choice stays in this browser. */

export type Theme = "system" | "light" | "dark";

const KEY = "shoal.theme";
const system = window.matchMedia("(prefers-color-scheme: dark)");

function stored(): Theme {
  const value = localStorage.getItem(KEY);
  return value === "light" || value === "dark" ? value : "system";
}

class ThemeChoice {
  choice: Theme = $state(stored());

  /** Changes what is shown and remembers it. */
  set(choice: Theme): void {
    this.choice = choice;
    if (choice === "system") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, choice);
    applyTheme();
  }
}

export const theme = new ThemeChoice();

/** Shows the page in the chosen colours. */
export function applyTheme(): void {
  const isDark = theme.choice === "dark" || (theme.choice === "system" && system.matches);
  document.documentElement.dataset["theme"] = isDark ? "dark" : "light";
}

system.addEventListener("change", applyTheme);
