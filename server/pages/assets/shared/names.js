// Names of models, as short as they are distinct: served names may be paths.

/** The last part of each name after a /, or as many as make it another than the others'. The same order. */
export function shortNames(names) {
  return names.map((name) => {
    const parts = name.split("/");
    const tail = (list, length) => list.split("/").slice(-length).join("/");
    for (let length = 1; length < parts.length; length++) {
      const short = tail(name, length);
      if (short && !names.some((other) => other !== name && tail(other, length) === short)) return short;
    }
    return name;
  });
}
