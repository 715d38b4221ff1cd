package graph
import ("testing";"os")
func TestDev(t *testing.T){ d:=os.Getenv("GDIR"); if d=="" {t.Skip()}; if err:=Build(d, d+"/"+os.Getenv("GOUT")); err!=nil {t.Fatal(err)}}
