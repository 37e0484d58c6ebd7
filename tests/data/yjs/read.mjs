// Reads documents that zincmq made, from standard input, and says what is in them; then changes each, and says how. tests/yjs.rs runs it.
import * as Y from 'yjs'
import { readFileSync } from 'node:fs'

const hex = bytes => Buffer.from(bytes).toString('hex')
const types = {
  text: [doc => doc.getText('text').toString(), doc => doc.getText('text').insert(1, '𝄞')],
  map: [doc => doc.getMap('map').toJSON(), doc => doc.getMap('map').set('yjs', [1, { a: null }])],
  array: [doc => doc.getArray('array').toArray(), doc => doc.getArray('array').insert(1, ['yjs'])],
  sheet: [
    doc => doc.getArray('rows').map(row => doc.getArray('columns').map(column => doc.getMap('cells').get(`${row},${column}`) ?? null)),
    doc => doc.getMap('cells').set(`${doc.getArray('rows').get(0)},${doc.getArray('columns').get(0)}`, 'yjs')
  ],
  canvas: [
    doc => [...doc.getMap('shapes').entries()]
      .sort(([a], [b]) => doc.getMap('order').get(a) < doc.getMap('order').get(b) ? -1 : 1).map(([, kind]) => kind),
    doc => doc.getMap('shapes').set('yjs', 'star')
  ]
}

const out = {}
for (const [kind, fragments] of Object.entries(JSON.parse(readFileSync(0, 'utf8')))) {
  const [read, change] = types[kind]
  const doc = new Y.Doc()
  // The last first: what comes too early has to wait.
  fragments.reverse().forEach(fragment => Y.applyUpdate(doc, Buffer.from(fragment, 'hex')))
  const content = read(doc)
  let update
  doc.once('update', made => { update = hex(made) })
  change(doc)
  out[kind] = { content, update, changed: read(doc) }
}
console.log(JSON.stringify(out))
