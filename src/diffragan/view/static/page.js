// What every part of the page uses: asking the server, making elements, the command of a view.

export async function ask(address, signal) {
  const answer = await fetch(address, { signal }).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("diffragan view does not answer any more; start it again.");
  });
  const told = answer.headers.get("content-type") || "";
  if (!told.includes("json")) {
    if (answer.ok) return answer.text();
    throw new Error(await answer.text());
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || answer.statusText);
  return found;
}

export function make(tag, attributes = {}, ...inside) {
  const svg = "svg g path line rect circle text".split(" ").includes(tag);
  const one = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) one.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) one.setAttribute(name, value);
  }
  one.append(...inside.filter((part) => part !== null && part !== undefined));
  return one;
}

export const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`);

// A row of command, copy and save, as it stands under views and pictures.
export function copyButton(text) {
  const button = make("button", { type: "button", title: "Copy the command" }, "copy");
  button.addEventListener("click", () => copy(text, button));
  return button;
}

export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  } catch {
    button.textContent = "select and copy";
  }
  setTimeout(() => { button.textContent = "copy"; }, 1400);
}
