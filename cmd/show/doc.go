// Package show writes what the commands print: text for people, one JSON document or JSON lines for
// programs. It only formats; every figure comes in as a value, so that golden files hold both forms.
//
// Text goes to a width of about 100 columns, sizes in binary units with three digits, times in
// the shortest unit that fits. JSON has a schema name, plain numbers in bytes and seconds.
package show
