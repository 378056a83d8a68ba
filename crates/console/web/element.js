// Elements of the page, made by their names and properties.

/**
 * An element. Properties that it has are set, others become attributes, `on` holds its listeners; children are elements or
 * text.
 */
export function element(name, { on = {}, ...properties } = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  for (const [event, listener] of Object.entries(on)) made.addEventListener(event, listener);
  made.append(...children);
  return made;
}

/** A labelled field. The label names it to whoever cannot see it, too. */
export function labelled(text, field) {
  return element('label', {}, text, field);
}

/** A labelled box to tick. */
export function tick(text, checked) {
  const box = element('input', { type: 'checkbox', checked });
  return { box, label: element('label', { className: 'tick' }, box, text) };
}

/** A form whose one action is `act`; a page is never left by it. */
export function form(act, ...children) {
  const submit = (event) => {
    event.preventDefault();
    act();
  };
  return element('form', { on: { submit } }, ...children);
}
