// Makes updates.json: documents as programs with Yjs make them. To be run in a directory with `npm install yjs@13`:
//     node make.mjs > updates.json
import * as Y from 'yjs'

const hex = bytes => Buffer.from(bytes).toString('hex')

// Two documents change at once, now and then one hears of the other. Every update is written down, and what came out.
function record (roots, start, steps, read) {
  const docs = [1000, 2 ** 53 - 1].map(id => Object.assign(new Y.Doc(), { clientID: id }))
  docs.forEach(roots)
  const updates = []
  docs.forEach(doc => doc.on('update', (update, origin) => { if (origin !== 'other') updates.push(update) }))
  start(docs[0])
  Y.applyUpdate(docs[1], Y.encodeStateAsUpdate(docs[0]), 'other')
  steps.forEach(([who, change], index) => {
    change(docs[who])
    if (index % 3 === 2) docs.forEach((doc, at) => Y.applyUpdate(doc, Y.encodeStateAsUpdate(docs[1 - at]), 'other'))
  })
  docs.forEach((doc, at) => Y.applyUpdate(doc, Y.encodeStateAsUpdate(docs[1 - at]), 'other'))
  const [one, other] = docs.map(doc => JSON.stringify(read(doc)))
  if (one !== other) throw new Error(`${one} ${other}`)
  return { updates: updates.map(hex), state: hex(Y.encodeStateAsUpdate(docs[0])), content: JSON.parse(one) }
}

const text = doc => doc.getText('text')
const map = doc => doc.getMap('map')
const array = doc => doc.getArray('array')

const documents = {
  text: record(text, doc => text(doc).insert(0, 'Hello 🌍'), [
    [0, doc => text(doc).insert(6, 'dear ')],
    [1, doc => text(doc).insert(6, 'big 𝄞 ')],
    [1, doc => text(doc).delete(0, 3)],
    [0, doc => text(doc).insert(0, '>> ')],
    [1, doc => text(doc).insert(0, 'é')],
    [0, doc => text(doc).delete(2, 5)],
    [1, doc => text(doc).insert(text(doc).length, '!')]
  ], doc => text(doc).toString()),
  rich: record(text, doc => text(doc).insert(0, 'bold and plain', { bold: true }), [
    [0, doc => text(doc).format(4, 10, { bold: null })],
    [1, doc => text(doc).insertEmbed(5, { image: 'a.png' })],
    [0, doc => text(doc).insert(0, '🌍')],
    [1, doc => text(doc).delete(2, 2)],
    [0, doc => text(doc).insert(text(doc).length, ' end', { italic: true })]
  ], doc => text(doc).toDelta().map(part => typeof part.insert === 'string' ? part.insert : '\ufffc').join('')),
  map: record(map, doc => map(doc).set('title', 'A'), [
    [0, doc => map(doc).set('n', 1)],
    [1, doc => map(doc).set('n', 2.5)],
    [1, doc => map(doc).set('nested', { a: [1, null, true], b: { c: 'x' } })],
    [0, doc => map(doc).delete('title')],
    [1, doc => map(doc).set('title', 'B')],
    [0, doc => map(doc).set('bytes', new Uint8Array([0, 255]))],
    [0, doc => map(doc).set('large', 2 ** 40)],
    [1, doc => map(doc).set('negative', -2147483649)],
    [1, doc => map(doc).set('undefined', undefined)]
  ], doc => Object.fromEntries([...map(doc).entries()].sort(([a], [b]) => a < b ? -1 : 1)
    .map(([key, value]) => [key, value instanceof Uint8Array ? [...value] : value ?? null]))),
  array: record(array, doc => array(doc).insert(0, ['a', 1, null]), [
    [0, doc => array(doc).insert(1, [true, { k: 'v' }])],
    [1, doc => array(doc).insert(1, ['x', 'y'])],
    [1, doc => array(doc).delete(0, 1)],
    [0, doc => array(doc).push([0.5])],
    [1, doc => array(doc).delete(2, 2)]
  ], doc => array(doc).toArray()),
  sheet: record(doc => { doc.getArray('rows'); doc.getArray('columns'); doc.getMap('cells') }, doc => doc.transact(() => {
    doc.getArray('rows').push(['r1', 'r2'])
    doc.getArray('columns').push(['c1', 'c2'])
    doc.getMap('cells').set('r1,c1', 1)
  }), [
    [0, doc => doc.getArray('rows').insert(0, ['r0'])],
    [1, doc => doc.getMap('cells').set('r2,c2', '=A1*2')],
    [1, doc => doc.getArray('columns').delete(0, 1)]
  ], doc => doc.getArray('rows').map(row => doc.getArray('columns').map(column => doc.getMap('cells').get(`${row},${column}`) ?? null))),
  canvas: record(doc => ['shapes', 'order', 'properties'].forEach(name => doc.getMap(name)), doc => doc.transact(() => {
    for (const [name, key] of [['s1', 'a'], ['s2', 'b'], ['s3', 'c']]) {
      doc.getMap('shapes').set(name, 'rect')
      doc.getMap('order').set(name, key)
      doc.getMap('properties').set(`${name},x`, 1)
    }
  }), [
    [0, doc => doc.getMap('order').set('s1', 'bV')],
    [1, doc => doc.getMap('properties').set('s1,x', 7)],
    [1, doc => doc.getMap('shapes').delete('s3')]
  ], doc => [...doc.getMap('shapes').keys()].sort((a, b) => doc.getMap('order').get(a) < doc.getMap('order').get(b) ? -1 : 1)
    .map(name => [name, doc.getMap('properties').get(`${name},x`)]))
}

console.log(JSON.stringify(documents, null, 1))
