// Scales of charts. No element is made here: tests run it without a browser.

/** A step of 1, 2 or 5 times a power of ten, so that `length` has at most `most` of them. */
function stepOf(length, most) {
  const least = length / most;
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= least * 0.999_999);
}

/** The values to mark between `from` and `to`, and the digits after the point that tell them apart. */
export function marks(from, to, most = 4) {
  if (!(to > from)) return { values: [from], digits: 0 };
  const step = stepOf(to - from, most);
  const values = [];
  for (let number = Math.ceil(from / step - 1e-9) || 0; number * step <= to * (1 + 1e-9); number += 1) values.push(number * step);
  return { values, digits: Math.max(0, Math.ceil(-Math.log10(step) - 1e-9)) };
}

/** The ends of a scale that holds 0 and `values`: whole numbers of steps. */
export function endsOf(values, most = 4) {
  const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
  if (!(high > low)) return [0, 1];
  const step = stepOf(high - low, most);
  return [Math.floor(low / step + 1e-9) * step, (Math.ceil(high / step - 1e-9) || 0) * step];
}

/** At most about `most` of the points, [x, y] by x: the means of equal groups. */
export function thinned(points, most) {
  const size = Math.ceil(points.length / most);
  if (size <= 1) return points;
  const groups = [];
  for (let start = 0; start < points.length; start += size) groups.push(points.slice(start, start + size));
  const mean = (group, part) => group.reduce((sum, point) => sum + point[part], 0) / group.length;
  return groups.map((group) => [mean(group, 0), mean(group, 1)]);
}
